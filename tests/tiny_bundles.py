"""Build the small bundles that device tests run on: random weights, real graphs. Run in the development environment."""

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

from fieldtune.adapters.arrays import from_theta, to_theta
from fieldtune.adapters.directory import initial_adapter, write_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import ExportError
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle
from fieldtune_offline.merge import merge_adapter
from fieldtune_offline.ort_training.export import training_python
from fieldtune_offline.precisions.table import NAMES
from fieldtune_offline.spec import MergeSpec, PrecisionSpec

REPOSITORY = Path(__file__).resolve().parent.parent
PROCESSES = 2
PACKED = NAMES[1:]
WORDS = """
    the a an it is was not film movie story plot acting cast scene good great fine best fun love moving bad poor worst
    dull boring waste hate what how do you can i to fix my your printer screen keyboard restart update
    driver cable check
""".split()  # noqa: SIM905
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def classifier(folder: Path) -> None:
    """Write a BERT of 2 layers with a WordPiece tokenizer and no head."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), ".", ",", "!", "?", *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(folder)
    fast.save_pretrained(folder)


def decoder(folder: Path) -> None:
    """Write a Llama of 2 layers with grouped-query attention, a byte-level tokenizer and a chat template."""
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        model_max_length=128, chat_template=TEMPLATE,
    )  # fmt: skip
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def has_training_tool() -> bool:
    """Whether the official training artifacts can be made here; where not, a line says why."""
    try:
        training_python(print)
    except ExportError as error:
        print(f"bundles come without the official training artifacts: {error}", flush=True)
        return False
    return True


def vision(folder: Path) -> None:
    """Write a ResNet of three stages for images of 32 x 32 pixels, with statistics that a trained one might have."""
    torch.manual_seed(3)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 1], layer_type="basic", num_labels=2
    )
    model = ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    model.save_pretrained(folder)
    settings = {
        "size": {"height": 32, "width": 32}, "do_resize": True, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def pictures(folder: Path) -> None:
    """Write noisy images of two brightnesses, each in its label's folder."""
    random = np.random.default_rng(4)
    for label, brightness in (("dark", 70), ("light", 180)):
        (folder / label).mkdir(parents=True)
        for number in range(40):
            pixels = random.normal(brightness, 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            np.save(folder / label / f"{number:02}.npy", pixels)


def build_all(out: Path) -> None:
    """Build every tiny bundle in OUT, unless they are there from the same sources."""
    official = has_training_tool()
    sources = [
        *sorted((REPOSITORY / "offline").rglob("*.py")),
        *sorted((REPOSITORY / "ondevice").rglob("*.py")),
        Path(__file__),
    ]
    key = hashlib.sha256(bytes([official]) + b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = out / "tiny.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == key:
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    models_folder = out / "models"
    shutil.rmtree(models_folder, ignore_errors=True)
    classifier(models_folder / "classifier")
    decoder(models_folder / "lm")
    vision(models_folder / "vision")
    pictures(models_folder / "pictures")
    every = MethodSpec(rank=4, alpha=8, target_modules=("query", "value"))
    linear = MethodSpec(rank=4, alpha=8, target_modules=("q_proj", "v_proj", "down_proj"))
    labels = ("negative", "positive")
    specs = [
        BuildSpec(model=str(models_folder / "classifier"), task="text-classification", out=out / "tiny-classifier",
                  labels=labels, method=every, overwrite=True),
        BuildSpec(model=str(models_folder / "classifier"), task="text-classification", out=out / "static-classifier",
                  labels=labels, method=every, batch=4, sequence=16, overwrite=True),
        BuildSpec(model=str(models_folder / "vision"), task="image-classification", out=out / "tiny-vision",
                  labels=("dark", "light"), method=MethodSpec(rank=4, alpha=8, target_modules=("convolution",)),
                  overwrite=True),
        BuildSpec(model=str(models_folder / "vision"), task="image-classification", out=out / "static-vision",
                  labels=("dark", "light"), method=MethodSpec(rank=4, alpha=8, target_modules=("convolution",)),
                  batch=4, overwrite=True),
        BuildSpec(model=str(models_folder / "vision"), task="image-classification", out=out / "split-vision",
                  labels=("dark", "light"), method=MethodSpec(rank=4, alpha=8, target_modules=("convolution",)),
                  split=1,
                  target=("vek280", "kv260", "ryzen-ai-strix"), calibration=models_folder / "pictures",
                  calibration_examples=40, overwrite=True),
        BuildSpec(model=str(models_folder / "classifier"), task="text-classification", out=out / "split-classifier",
                  labels=labels, method=every, sequence=16, split=1, overwrite=True),
        BuildSpec(model=str(models_folder / "lm"), task="text-generation", out=out / "tiny-lm", method=linear,
                  overwrite=True),
        BuildSpec(model=str(models_folder / "classifier"), task="token-classification", out=out / "tiny-tagger",
                  labels=("O", "B-person", "I-person", "B-thing", "I-thing"), method=every, overwrite=True),
        BuildSpec(model=str(models_folder / "classifier"), task="question-answering", out=out / "tiny-questions",
                  method=every, overwrite=True),
        *(
            BuildSpec(model=str(models_folder / "classifier"), task="text-classification", out=out / f"packed-{base}",
                      labels=labels, method=every, base=PrecisionSpec(name=base), overwrite=True)
            for base in PACKED
        ),
    ]  # fmt: skip
    # Split and packed ones have no official artifacts. What takes longest comes first, so that none is idle at the end.
    plain = [spec.split == "none" and spec.base == PrecisionSpec() for spec in specs]
    specs = [
        dataclasses.replace(spec, ort_training=official and whole) for spec, whole in zip(specs, plain, strict=True)
    ]
    specs.sort(key=lambda spec: len(spec.target), reverse=True)
    side_by_side = ProcessPoolExecutor(PROCESSES, get_context("spawn"), warnings.simplefilter, ("ignore",))
    with side_by_side:
        list(side_by_side.map(built, specs))
        list(side_by_side.map(merged, repeat(out), ("vision", "lm", "classifier")))
    stamp.write_text(json.dumps(key))


def built(spec: BuildSpec) -> None:
    """Build a bundle, and say so."""
    print(f"building {spec.out}", flush=True)
    build_bundle(spec)


def merged(out: Path, name: str) -> None:
    """Write the adapter ``noisy-NAME`` for the bundle ``tiny-NAME``, and ``merged-NAME``, which has it merged.

    The one for images is quantized whole, too.
    """
    bundle = open_bundle(out / f"tiny-{name}")
    manifest, initial = bundle.manifest, initial_adapter(bundle)
    theta = to_theta(initial, manifest)
    theta += np.random.default_rng(5).normal(0, 0.1, theta.shape).astype(np.float32)
    images = manifest.image is not None
    labels = manifest.task.labels if images else tuple(f"{label}ish" for label in manifest.task.labels)
    adapter = out / f"noisy-{name}"
    shutil.rmtree(adapter, ignore_errors=True)
    write_adapter(from_theta(theta, manifest, initial, labels, None), adapter)
    spec = MergeSpec(bundle=bundle.root, adapter=adapter, out=out / f"merged-{name}", overwrite=True)
    if images:
        spec = dataclasses.replace(
            spec, target=("vek280", "kv260"), calibration=out / "models" / "pictures", calibration_examples=40
        )
    merge_adapter(spec)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the bundles")
    warnings.simplefilter("ignore")
    # Resolved: the models' paths are in what is built, and the tests build again with the folder's absolute path.
    build_all(parser.parse_args().out.resolve())
    sys.exit(0)
