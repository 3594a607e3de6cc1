"""Predicted peak memory beside the measured one: fieldtune check's figures and what the commands themselves took.

    python benchmarks/preflight_memory.py --cache .cache
    python benchmarks/preflight_memory.py --cache .cache --models minilm --quick
    python benchmarks/preflight_memory.py --cache .cache --models minilm-split efficientnet-lite0-split
    python benchmarks/preflight_memory.py --cache .cache --models minilm-int8 smollm2-int4

Each row is a run of ``fieldtune train``, ``evaluate`` or ``run`` in a process of its own; its peak is VmHWM of
/proc/self/status (Linux), the largest resident set. The data are random words of the model's vocabulary, or random
images, all as long as --max-length allows, so that whole embeddings are read. Of a split bundle the float32 prefix and
the suffix are run, with an activation cache that is empty. Where a precision is named behind a model, its base
is packed. The profiles:

* generic: cpu-generic with arena_extend = "as-requested" (kSameAsRequested);
* lean: prepacking and memory_pattern off, arena_extend = "as-requested";
* power-of-two: cpu-generic as it is; and no arena: prepacking, memory_pattern and arena off.

``process`` is what a command takes with a bundle of next to nothing, less what is predicted for that bundle: it is
where PROCESS_BYTES of fieldtune.preflight.memory comes from.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import REPOSITORY, THREADS, asset, bundle, machine_line, parser, profile_text, save, say, table
from splits import LABELS, SPLITS, split_bundle

from fieldtune_offline import BuildSpec, MethodSpec
from fieldtune_offline.spec import PrecisionSpec

BASE = "tiny-classifier"
TOKENS = 4096
"""So many random tokens read nearly every page of an embedding."""
PROFILES = {
    "generic": 'arena_extend = "as-requested"',
    "lean": 'prepacking = false\nmemory_pattern = false\narena_extend = "as-requested"',
    "power-of-two": "",
    "no arena": "prepacking = false\nmemory_pattern = false\narena = false",
}
JUDGED = ("generic", "lean")
"""Profiles of which every size is measured; of the others, the middle one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a bundle of whole graphs is built of."""

    model: str
    task: str
    labels: tuple[str, ...]
    method: MethodSpec
    base: PrecisionSpec = dataclasses.field(default_factory=PrecisionSpec)


GENERATES = "text-generation"
SPLIT = "-split"
BASES = ("int8", "int4", "nf4")
WHOLE = {
    "minilm": Subject(
        model="minilm",
        task="text-classification",
        labels=LABELS,
        method=MethodSpec(target_modules=("query", "value")),
    ),
    "smollm2": Subject(
        model="smollm2",
        task=GENERATES,
        labels=(),
        method=MethodSpec(target_modules=("q_proj", "v_proj")),
    ),
    "efficientnet-lite0": Subject(
        model="efficientnet-lite0",
        task="image-classification",
        labels=LABELS,
        method=MethodSpec(target_modules=("blocks\\.1[345]\\.(expand|project)|head",)),
    ),
}
PACKED = {
    f"{name}-{base}": dataclasses.replace(WHOLE[name], base=PrecisionSpec(name=base))
    for name in ("minilm", "smollm2")
    for base in BASES
}
SUBJECTS = {**WHOLE, **PACKED}
WHOLE_SIZES = {
    "minilm": ((1, 32), (8, 64), (16, 128)),
    "smollm2": ((1, 64), (2, 128), (4, 128)),
    "efficientnet-lite0": ((1, 0), (8, 0), (16, 0)),
}
SIZES = {
    **{name: WHOLE_SIZES[subject.model] for name, subject in SUBJECTS.items()},
    **{f"{name}{SPLIT}": tuple((batch, split.sequence or 0) for batch in (1, 8, 32)) for name, split in SPLITS.items()},
}
"""What each bundle is measured at: batch, and tokens of a row (0 for images)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One command that is measured."""

    model: str
    profile: str
    use: str
    batch: int
    sequence: int


def rows(names: Sequence[str]) -> Iterator[Row]:
    """Yield what is measured."""
    for name, profile in itertools.product(names, PROFILES):
        sizes = SIZES[name]
        for size in sizes if profile in JUDGED else sizes[1:2]:
            uses = ["training", "evaluation"]
            if size == sizes[1]:
                uses += ["training with evaluation", "inference"]
            for use in uses:
                # An answer is written for one prompt at a time.
                batch = 1 if use == "inference" and generates(name) else size[0]
                yield Row(model=name, profile=profile, use=use, batch=batch, sequence=size[1])


def generates(name: str) -> bool:
    """Return whether a bundle is of a language model."""
    return name in SUBJECTS and SUBJECTS[name].task == GENERATES


def built(name: str, cache: Path) -> Path:
    """Return a bundle that is measured."""
    if name.endswith(SPLIT):
        return split_bundle(name.removesuffix(SPLIT), cache)
    subject = SUBJECTS[name]
    model = asset(subject.model, cache)
    if name == "efficientnet-lite0":
        # PEFT reads one string as a pattern, which the fields of MethodSpec cannot say.
        config = cache.resolve() / "benchmarks" / f"{name}-lora.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps({"target_modules": subject.method.target_modules[0], "r": 8, "lora_alpha": 16}))
        method = MethodSpec(peft_config=config)
    else:
        method = subject.method
    spec = BuildSpec(
        model=str(model),
        task=subject.task,
        labels=subject.labels,
        method=method,
        base=subject.base,
        trust_remote_code=name == "efficientnet-lite0",
        out=cache / "bundles" / f"memory-{name}",
    )
    return bundle(name, spec)


def write_data(folder: Path, root: Path, row: Row) -> Path:
    """Write examples of a bundle's task, enough for three batches and for TOKENS tokens."""
    rng = random.Random(0)
    least = max(3 * row.batch, -(-TOKENS // row.sequence) if row.sequence else 0)
    count = -(-least // row.batch) * row.batch
    if not row.sequence:
        return write_images(folder, root, count)
    vocabulary = json.loads((root / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted({word.lstrip("Ġ") for word in vocabulary if re.fullmatch("Ġ?[A-Za-z]{3,}", word)})
    file = folder / "data.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            text = " ".join(rng.choices(words, k=row.sequence))
            example = (
                {"prompt": "Go on:", "completion": text}
                if generates(row.model)
                else {"text": text, "label": number % 2}
            )
            lines.write(json.dumps(example) + "\n")
    return file


def write_images(folder: Path, root: Path, count: int) -> Path:
    """Write random images as arrays, in a folder for each label; done where NumPy is, for it would stay in here."""
    image = json.loads((root / "manifest.json").read_text())["image"]
    shape = (image["height"], image["width"], image["channels"])
    program = (
        "import sys, pathlib, numpy\n"
        f"rng = numpy.random.default_rng(0)\nfor n in range({count}):\n"
        f"    folder = pathlib.Path(sys.argv[1]) / {LABELS!r}[n % 2]\n    folder.mkdir(parents=True, exist_ok=True)\n"
        f"    numpy.save(folder / f'{{n}}.npy', rng.integers(0, 256, {shape!r}, dtype='uint8'))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "data")], check=True)
    return folder / "data"


def command(row: Row, root: Path, data: Path, profile: Path, out: Path) -> list[str]:
    """Return the arguments of fieldtune for a row."""
    sizes = ["--batch-size", str(row.batch), *(["--max-length", str(row.sequence)] if row.sequence else [])]
    common = [str(root), "--profile", str(profile), "--data", str(data)]
    if row.use.startswith("training"):
        held_out = ["--eval", str(data)] if row.use == "training with evaluation" else []
        return ["train", *common, *sizes, *held_out, "--out", str(out), "--epochs", "1", "--backend", "portable"]
    if row.use == "evaluation":
        return ["evaluate", *common, *sizes]
    if not generates(row.model):
        return ["run", *common, *sizes]
    prompt = json.loads(data.read_text().splitlines()[0])["completion"]
    return ["run", *common[:3], "--raw", "--max-new-tokens", "1", prompt]


def measured(row: Row, root: Path) -> tuple[int, int]:
    """Run a row's command; return its peak memory in bytes, and how many examples it read."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        profile = folder / "measured.toml"
        profile.write_text(profile_text(f"threads = {THREADS}\n{PROFILES[row.profile]}"))
        data = write_data(folder, root, row)
        arguments = command(row, root, data, profile, folder / "out")
        me = [sys.executable, __file__, "--measure", *arguments]
        # What another row has left in the activation cache would spare this one its prefix.
        environment = {**os.environ, "FIELDTUNE_CACHE": str(folder / "cache")}
        done = subprocess.run(me, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"fieldtune {' '.join(arguments)} failed:\n{done.stderr}")
        generated = generates(row.model) and row.use == "inference"
        count = sum(1 for _ in (data.rglob("*.npy") if data.is_dir() else data.open()))
        return int(done.stderr.splitlines()[-1]), 0 if generated else count * (1 + row.use.count("with"))


def measure_here(arguments: Sequence[str]) -> int:
    """Run fieldtune in this process, and tell its peak memory in bytes on the last line of stderr."""
    from fieldtune.cli import main as fieldtune

    code = fieldtune(arguments)
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    sys.stderr.write(f"\n{int(match[1]) * 1024}\n")
    return code


def predicted(row: Row, root: Path, samples: int) -> dict[str, int]:
    """Return what is predicted for a row."""
    from fieldtune.bundle import Bundle
    from fieldtune.bundle.manifest_reading import read_manifest
    from fieldtune.hardware import read_profile
    from fieldtune.preflight.memory import predict_memory
    from fieldtune.preflight.workload import uses_of, workload_of

    opened = Bundle(root, read_manifest((root / "manifest.json").read_text()))
    profile = read_profile(profile_text(PROFILES[row.profile]), "measured.toml")
    use = next(use for use in uses_of(opened) if use == row.use)
    work = workload_of(opened, profile, use, batch=row.batch, sequence=row.sequence, samples=samples)
    prediction = predict_memory(work)
    kinds = [field.name for field in dataclasses.fields(prediction) if field.name.endswith("_bytes")]
    return {**{kind: getattr(prediction, kind) for kind in kinds}, "total_bytes": prediction.total_bytes}


def base(cache: Path) -> dict[str, int]:
    """Return what each command takes beside what is predicted for the smallest bundle, in bytes."""
    folder = cache.resolve() / "bundles"
    script = REPOSITORY / "tests" / "tiny_bundles.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, stdout=subprocess.DEVNULL)
    beside = {}
    for use in ("training", "evaluation", "inference"):
        row = Row(model=BASE, profile="lean", use=use, batch=1, sequence=16)
        peak, samples = measured(row, folder / BASE)
        parts = predicted(row, folder / BASE, samples)
        beside[use] = peak - parts["total_bytes"] + parts["process_bytes"]
    return beside


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and predict all rows; return the figures."""
    measurements: list[dict[str, Any]] = []
    roots = {name: built(name, arguments.cache) for name in arguments.models}
    process = base(arguments.cache)
    print(f"Machine: {machine_line()}\n")
    print(", ".join(f"process, {use}: {size / 1e6:.1f} MB" for use, size in process.items()), flush=True)
    for row in rows(arguments.models):
        if arguments.quick and (row.profile != "lean" or row.use != "training"):
            continue
        say(f"{row.model}, {row.profile}: {row.use}, batch {row.batch}, {row.sequence} tokens")
        peak, samples = measured(row, roots[row.model])
        parts = predicted(row, roots[row.model], samples)
        measurements.append({**dataclasses.asdict(row), "measured_bytes": peak, "predicted": parts})
    return {"process_bytes": process, "rows": measurements}


def report(result: dict[str, Any]) -> str:
    """Return the table: a line for each command and size, what was measured and the ratio for each profile."""
    header = ["model", "command", "batch", "tokens"]
    for profile in PROFILES:
        header += [f"{profile}, MB", "predicted : it"]
    lines: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {}
    for row in result["rows"]:
        key = (row["model"], row["use"], str(row["batch"]), str(row["sequence"] or "-"))
        ratio = row["predicted"]["total_bytes"] / row["measured_bytes"]
        lines.setdefault(key, {})[row["profile"]] = (f"{row['measured_bytes'] / 1e6:.0f}", f"{ratio:.2f}")
    rows = [
        [*key, *(cell for profile in PROFILES for cell in cells.get(profile, ("", "")))] for key, cells in lines.items()
    ]
    return table(header, rows)


def main() -> None:
    """Measure, print the table, save the figures."""
    if sys.argv[1:2] == ["--measure"]:
        sys.exit(measure_here(sys.argv[2:]))
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    arguments = flags.parse_args()
    result = run(arguments)
    print(report(result))
    judged = [row for row in result["rows"] if row["profile"] in JUDGED]
    ratios = [row["predicted"]["total_bytes"] / row["measured_bytes"] for row in judged]
    if ratios:
        print(f"\n{len(ratios)} rows of {' and '.join(JUDGED)}: {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"Figures: {save('preflight_memory', arguments.cache, result)}")


if __name__ == "__main__":
    main()
