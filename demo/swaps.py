"""How long a new adapter takes until it answers on a split bundle; nothing may be opened or compiled for it.

    python demo/swaps.py bundle adapter-1 adapter-2 --profile vek280 --image photo.png

Runs where only the device half is installed and prints one JSON object. benchmarks/adapter_swap.py measures with it,
too.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from fieldtune import Runner, load_profile, open_bundle
from fieldtune.compilation import CompiledStore
from fieldtune.data import batch_of, encoded_image, load_images

SWAPS = 20


class CountedSession(onnxruntime.InferenceSession):
    """A session that is counted when it is opened."""

    opened = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        CountedSession.opened += 1
        super().__init__(*arguments, **settings)


def time_swaps(runner: Runner, adapters: Sequence[Path], sample: Mapping[str, Any]) -> dict[str, Any]:
    """Load adapters in turn, each answering a sample twice.

    The time until one is in use is that of reading, checking and preparing it, and what its first answer takes longer
    than a second one usually does. Answers are of the suffix: the prefix runs on the sample before, as its emulation
    takes another time than hardware would.

    Args:
        runner: of a bundle with a prefix for its profile's accelerator.
        adapters: PEFT directories of that bundle.
        sample: an array for each input of the graph.

    Returns:
        The number of ``swaps`` and the milliseconds of each (``load_ms``, ``first_answer_ms``, ``second_answer_ms``,
        ``in_use_ms``, of which ``median_ms``), the class of each answer (``answers``), and how many ``sessions`` were
        opened and ``compiled_files`` written meanwhile.
    """
    behind = runner.behind_prefix(sample)
    _swap(runner, adapters[0], behind)  # a session's first run is slower
    onnxruntime.InferenceSession, counted = CountedSession, onnxruntime.InferenceSession
    try:
        before = _counts()
        load, first, second, answers = map(list, zip(*(_swap(runner, path, behind) for path in adapters), strict=True))
        after = _counts()
    finally:
        onnxruntime.InferenceSession = counted
    usual = statistics.median(second)
    in_use = [loaded + one - usual for loaded, one in zip(load, first, strict=True)]
    return {
        "swaps": len(adapters),
        "median_ms": statistics.median(in_use),
        "load_ms": load,
        "first_answer_ms": first,
        "second_answer_ms": second,
        "in_use_ms": in_use,
        "answers": answers,
        "sessions": after["sessions"] - before["sessions"],
        "compiled_files": len(after["files"].items() - before["files"].items()),
    }


def _swap(runner: Runner, path: Path, sample: Mapping[str, Any]) -> tuple[float, float, float, int]:
    times = [time.perf_counter()]
    adapter = runner.load_adapter(path)
    times.append(time.perf_counter())
    for _ in range(2):
        logits = runner.run(sample, adapter, outputs=["logits"])["logits"]
        times.append(time.perf_counter())
    load, first, second = (1e3 * (end - start) for start, end in itertools.pairwise(times))
    return load, first, second, int(logits[0].argmax())


def _counts() -> dict[str, Any]:
    folders = [stored.folder for stored in CompiledStore().list()]
    files = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    return {"sessions": CountedSession.opened, "files": files}


def main() -> None:
    """Put adapters into use in one open Runner, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+", help="PEFT directories")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--image", type=Path, required=True, help="that they classify")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    runner = Runner(bundle, load_profile(arguments.profile), on_missing="emulate")
    (pixels,) = load_images([("", arguments.image)], bundle.image)
    sample = batch_of([encoded_image(pixels)], [0], runner.graph.inputs, image=bundle.image)
    adapters = [arguments.adapters[number % len(arguments.adapters)] for number in range(SWAPS)]
    print(json.dumps(time_swaps(runner, adapters, sample)))


if __name__ == "__main__":
    main()
