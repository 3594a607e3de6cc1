"""How long a new adapter takes until it answers, beside an emulated accelerator, and what a recompile would take.

    python benchmarks/adapter_swap.py --cache .cache
    python benchmarks/adapter_swap.py --cache .cache --profile kv260 --swaps 100

The model is EfficientNet-Lite0, split before its last two blocks and quantized for the accelerators on Fashion-MNIST;
--bundle names another bundle with a prefix for the profile's. Adapters of its rank lie in folders. In turn each is
loaded from its folder and answers one sample; then it answers the same one again. Loading, and what the first answer
takes longer than second ones do, is the time until a new adapter is in use. Answers are of the suffix: the prefix,
whose emulation takes longer than hardware would, has run on the sample before. Sessions of ONNX Runtime and files of
compiled forms are counted before and after: none may be new. A recompile is what an accelerator would need whose
weights held the adapter; what is timed is the emulation's, which only checks and plans.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Spread, asset, bundle, machine_line, on_threads, parser, save, table

from fieldtune import load_profile, open_bundle
from fieldtune.adapters import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle import Bundle
from fieldtune.compilation import compile_prefix
from fieldtune.hardware import HardwareProfile
from fieldtune.serving import Runner
from fieldtune_offline import BuildSpec, MethodSpec
from swaps import time_swaps

MOST_MS = 10


def build(cache: Path) -> Path:
    """Return the bundle that is measured by default."""
    examples = asset("fashion", cache) / "train.jsonl"
    labels = {json.loads(line)["label"] for line in examples.read_text(encoding="utf-8").splitlines()}
    spec = BuildSpec(
        model=str(asset("efficientnet-lite0", cache)),
        task="image-classification",
        labels=tuple(sorted(labels)),
        method=MethodSpec(target_modules=("expand", "project")),
        split=2,
        target=("vek280", "kv260"),
        calibration=examples,
        calibration_examples=64,
        trust_remote_code=True,
        out=cache / "bundles" / "benchmark-target-efficientnet-lite0",
    )
    return bundle("efficientnet-lite0, for vek280 and kv260", spec)


def write_adapters(opened: Bundle, folder: Path, count: int) -> list[Path]:
    """Write adapters that differ from the initial one in every tensor."""
    initial, rng = read_adapter(opened.adapter_path), np.random.default_rng(0)
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        tensors = {
            key: StoredTensor.from_float32(rng.normal(0, 0.1, stored.shape).astype(np.float32), stored.dtype)
            for key, stored in initial.tensors.tensors.items()
        }
        write_adapter(dataclasses.replace(initial, tensors=dataclasses.replace(initial.tensors, tensors=tensors)), path)
    return paths


def inputs(runner: Runner) -> dict[str, Any]:
    """Return the random inputs of one sample."""
    rng, arrays = np.random.default_rng(1), {}
    for spec in runner.graph.inputs:
        shape = [1, *spec.shape[1:]]
        if spec.dtype == "float32":
            arrays[spec.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            mask = "mask" in spec.name
            arrays[spec.name] = np.ones(shape, np.int64) if mask else rng.integers(5, 60, shape)
    return arrays


def measure(opened: Bundle, profile: HardwareProfile, swaps: int, folder: Path) -> dict[str, Any]:
    """Swap adapters, check that nothing was opened or compiled, print the table and return the figures."""
    started = time.perf_counter()
    compile_prefix(opened, profile)
    compile_s = time.perf_counter() - started
    runner = Runner(opened, profile)
    figures = time_swaps(runner, write_adapters(opened, folder, swaps), inputs(runner))
    if figures["sessions"] or figures["compiled_files"]:
        raise SystemExit("a new adapter opened a session or changed what is compiled")
    rows = [
        ["load", Spread.of(figures["load_ms"]).text(2)],
        ["first answer", Spread.of(figures["first_answer_ms"]).text(2)],
        ["second answer", Spread.of(figures["second_answer_ms"]).text(2)],
        ["until in use", Spread.of(figures["in_use_ms"]).text(2)],
        ["recompile, emulated", f"{1e3 * compile_s:.0f}"],
    ]
    title = f"{opened.manifest.layout.size:,} parameters, {profile.name} (emulated)"
    print(table([title, "ms: min / median / max"], rows))
    verdict = "at most" if figures["median_ms"] <= MOST_MS else "MORE THAN"
    print(f"\n{swaps} swaps, 0 sessions opened, 0 compiles. The median until in use is {verdict} {MOST_MS} ms.\n")
    return {
        "parameters": opened.manifest.layout.size,
        "profile": profile.name,
        **figures,
        "emulated_compile_s": compile_s,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure with a cache folder of its own: nothing is compiled before."""
    profile = on_threads(load_profile(arguments.profile))
    profile = dataclasses.replace(profile, execution=dataclasses.replace(profile.execution, on_missing="emulate"))
    opened = open_bundle(arguments.bundle or build(arguments.cache.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FIELDTUNE_CACHE"] = str(Path(folder) / "cache")
        (Path(folder) / "adapters").mkdir()
        swaps = 3 if arguments.quick else arguments.swaps
        return measure(opened, profile, swaps, Path(folder) / "adapters")


def main() -> None:
    """Measure, print the table, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--bundle", type=Path, help="another one, with a prefix for the profile's accelerator")
    flags.add_argument("--profile", default="vek280", help="default: vek280")
    flags.add_argument("--swaps", type=int, default=30, help="adapters that are swapped in (default: 30)")
    arguments = flags.parse_args()
    print(f"{machine_line()}\n")
    results = run(arguments)
    print(f"Figures: {save('adapter_swap', arguments.cache, results)}")


if __name__ == "__main__":
    main()
