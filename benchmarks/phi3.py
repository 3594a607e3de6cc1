"""A model of Phi-3's size on a packed base: what a build, a training step and an answer take.

    python benchmarks/phi3.py --cache .cache
    python benchmarks/phi3.py --cache .cache --variant long-rope --layers 2
    python benchmarks/phi3.py --cache .cache --quick

The weights are random numbers of the true shapes in bfloat16, in shards, as a hub has them: times and memory are those
of the real model, answers mean nothing. Sources of the shapes: config.json of microsoft/Phi-3-mini-4k-instruct,
microsoft/Phi-3.5-mini-instruct, microsoft/Phi-4-mini-instruct and microsoft/Phi-3-medium-4k-instruct; the factors of
long rope are made up. The full model needs 8 GB of disk for the checkpoint and 5 GB for the bundle while it is built.

Memory is read from /proc of the process every 50 ms: RssAnon, what the process alone holds, and VmHWM, the largest
resident set, mapped files included, which the system takes back when it needs memory.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import parser, profile_text, save, say, table

MINI = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "pad_token_id": 32000,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "tie_word_embeddings": False,
}


def _long(size: int) -> dict[str, Any]:
    short = [1 + 0.02 * place for place in range(size)]
    return {"type": "longrope", "short_factor": short, "long_factor": [1 + place * 1.3 for place in range(size)]}


VARIANTS: dict[str, dict[str, Any]] = {
    "mini": MINI,
    "long-rope": {**MINI, "max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": _long(48)},
    "phi-4-mini": {
        **MINI,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 200064,
        "max_position_embeddings": 131072,
        "sliding_window": 262144,
        "partial_rotary_factor": 0.75,
        "rope_scaling": _long(48),
        "tie_word_embeddings": True,
    },
    "medium": {
        **MINI,
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
    },
}
SHARD_BYTES = 10**9
TOKENS = 17
LEAN = "prepacking = false\nmemory_pattern = false\narena = false"

# --- the checkpoint ---


def write_checkpoint(folder: Path, settings: dict[str, Any]) -> None:
    """Write a checkpoint of random weights, one shard in memory at a time."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, Phi3Config

    config = Phi3Config(**settings)
    config.architectures = ["Phi3ForCausalLM"]
    config.dtype = "bfloat16"
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in AutoModelForCausalLM.from_config(config).state_dict().items()}
    if settings["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    write_tokenizer(folder, settings)
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    names = list(shapes)
    for name in names:
        values = torch.empty(shapes[name], dtype=torch.bfloat16)
        shard[name] = values.fill_(1) if "norm" in name else values.normal_(0, 0.02, generator=generator)
        if sum(value.nbytes for value in shard.values()) >= SHARD_BYTES or name == names[-1]:
            file = f"model-{len(set(places.values())) + 1:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            places.update(dict.fromkeys(shard, file))
            shard = {}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_tokenizer(folder: Path, settings: dict[str, Any]) -> None:
    """Write a tokenizer of bytes, with as many tokens as the model has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = settings["vocab_size"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{letter: place + 3 for place, letter in enumerate(letters)}}
    fill = (f"<{number}>" for number in range(size))
    while len(vocabulary) < size:
        vocabulary.setdefault(next(fill), len(vocabulary))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end = next(word for word, place in vocabulary.items() if place == settings["eos_token_id"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token=end, pad_token=end
    )
    fast.save_pretrained(folder)


# --- measured commands ---


def measured(name: str, *arguments: object) -> dict[str, Any]:
    """Run a command of fieldtune; return its seconds, its largest RssAnon and VmHWM in bytes, and what it printed."""
    say(" ".join(["…", name, *map(str, arguments)]))
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    largest = {"RssAnon": 0, "VmHWM": 0}

    def sample() -> None:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            except OSError:
                return
            for key, before in largest.items():
                found = re.search(rf"{key}:\s+(\d+) kB", status)
                largest[key] = max(before, int(found[1]) * 1024 if found else 0)
            time.sleep(0.05)

    watcher = threading.Thread(target=sample)
    watcher.start()
    assert process.stdout is not None
    printed = process.stdout.read()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} failed with {code}")
    return {"seconds": time.perf_counter() - started, **largest, "printed": printed}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--variant", choices=VARIANTS, default="mini")
    made.add_argument("--layers", type=int, help="how many; all if not given")
    made.add_argument("--base", default="int4", help="as fieldtune-offline build has it")
    made.add_argument("--steps", type=int, default=4, help="training steps")
    made.add_argument("--built", action="store_true", help="take the bundle that an earlier run kept")
    made.add_argument("--keep", action="store_true", help="leave the checkpoint and the bundle there")
    options = made.parse_args()
    settings = dict(VARIANTS[options.variant])
    if options.quick or options.layers:
        settings["num_hidden_layers"] = options.layers or 1
    place = options.cache.resolve() / "phi3"
    title = f"{options.variant}-{settings['num_hidden_layers']}"
    checkpoint, bundle, work = place / title, place / f"{title}-{options.base}", place / f"{title}-work"
    work.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        say(f"… writing {checkpoint}")
        child = os.fork()  # torch stays out of this process
        if not child:
            write_checkpoint(checkpoint, settings)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the checkpoint was not written")
    profile, data = work / "lean.toml", work / "train.jsonl"
    profile.write_text(profile_text(LEAN), encoding="utf-8")
    text = "A device in the field learns from what it sees, and answers with what it has learned. " * 4
    texts = [json.dumps({"text": f"{number} {text}"}) for number in range(options.steps)]
    data.write_text("\n".join(texts) + "\n", encoding="utf-8")
    build = ["build", checkpoint, "--task", "text-generation", "--target-modules", "qkv_proj", "--rank", 8]
    noted = work / f"build-{options.base}.json"
    if not options.built:
        built = measured("fieldtune-offline", *build, "--base", options.base, "--out", bundle, "--overwrite")
        noted.write_text(json.dumps(built), encoding="utf-8")
    built = json.loads(noted.read_text(encoding="utf-8"))
    train = ["train", bundle, "--data", data, "--profile", profile, "--batch-size", 1, "--gradient-accumulation", 1]
    train += ["--max-length", 128, "--epochs", 1, "--json", "--overwrite"]
    trained = measured("fieldtune", *train, "--out", work / "adapter")
    report = json.loads(trained.pop("printed"))
    # Without prepacking each token would unpack whole matrices.
    run = ["run", bundle, "What does the device learn?", "--json", "--adapter", work / "adapter"]
    first = measured("fieldtune", *run, "--max-new-tokens", 1)
    answered = measured("fieldtune", *run, "--max-new-tokens", TOKENS)
    swapped = measured("fieldtune", *run, "--adapter", bundle / "adapter", "--max-new-tokens", 1)
    speed = (TOKENS - 1) / (answered["seconds"] - first["seconds"])
    sizes = {"checkpoint": folder_bytes(checkpoint), "bundle": folder_bytes(bundle)}
    result = {"variant": options.variant, "layers": settings["num_hidden_layers"], "base": options.base, **sizes}
    result |= {"build": built, "train": trained, "report": report, "first": first, "run": answered, "swap": swapped}
    commands = {"build": built, f"train, {options.steps} steps 1 x 128": trained}
    commands |= {"answer with 1 token": first, f"answer with {TOKENS} tokens": answered}
    commands |= {"answers with 1 token of two adapters": swapped}
    rows = [
        [what, f"{found['seconds']:.0f}", f"{found['RssAnon'] / 1e9:.2f}", f"{found['VmHWM'] / 1e9:.2f}"]
        for what, found in commands.items()
    ]
    held = ", ".join(f"{what} {size / 1e9:.2f} GB" for what, size in sizes.items())
    print(f"\n{title}, {options.base}: {held}\n")
    print(table(["command", "seconds", "RssAnon, GB", "VmHWM, GB"], rows))
    step = report["training_seconds"] / len(report["steps"])
    print(f"\n{step:.1f} s a step of 128 tokens; {speed:.1f} tokens a second behind the first.")
    say(f"written: {save('phi3', options.cache, result)}")
    if not options.keep:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
