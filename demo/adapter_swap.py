"""How fast a new version of an adapter is in use on a split bundle, and that nothing is compiled or opened for it.

Runs in the device's environment; prints one JSON object.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import onnxruntime

from fieldtune import Runner, load_profile, open_bundle
from fieldtune.compilation.store import CompiledStore

SWAPS = 20


class CountedSession(onnxruntime.InferenceSession):
    """A session that is counted when it is opened."""

    opened = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        CountedSession.opened += 1
        super().__init__(*arguments, **settings)


def counts() -> dict[str, int]:
    """Return how many sessions were opened until now, and how many compiled forms are kept."""
    return {"sessions": CountedSession.opened, "compilations": len(CompiledStore().list())}


def main() -> None:
    """Load adapters in turn into one open Runner, and answer with each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+", help="PEFT directories")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--image", type=Path, required=True)
    arguments = parser.parse_args()

    onnxruntime.InferenceSession = CountedSession
    runner = Runner(open_bundle(arguments.bundle), load_profile(arguments.profile), on_missing="emulate")
    before = counts()
    milliseconds, answers = [], set()
    for number in range(SWAPS):
        started = time.perf_counter()
        # Read, checked against the bundle and prepared: from the next call on it is in use.
        adapter = runner.load_adapter(arguments.adapters[number % len(arguments.adapters)])
        milliseconds.append(1000 * (time.perf_counter() - started))
        (found,) = runner.classify_images([arguments.image], adapter)
        answers.add((adapter.name, found.label, round(found.probability, 4)))
    after = counts()
    print(
        json.dumps(
            {
                "swaps": SWAPS,
                "median_ms": statistics.median(milliseconds),
                "worst_ms": max(milliseconds),
                "answers": sorted(answers),
                **{name: after[name] - before[name] for name in after},
            }
        )
    )


if __name__ == "__main__":
    main()
