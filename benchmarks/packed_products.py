"""Where the time of a training step on a packed base goes: ONNX Runtime's own profile, operator by operator.

    python benchmarks/packed_products.py --cache .cache
    python benchmarks/packed_products.py --cache .cache --models minilm --bases float32 int8
    python benchmarks/packed_products.py --cache .cache --quick

The models and batches are those of packed_base.py, each base in a session of its own, which take turns. All run on one
thread, so that the time of an operator is work. Below each table: how much faster a product of integers is than one of
float32, and what unpacking a weight takes. The CPU's features are said, for these figures are of its kernels.
"""

import argparse
import collections
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import asset, machine_line, on_threads, parser, save, say, table
from packed_base import BASES, packed_bundle
from safetensors import safe_open
from train_step import SUBJECTS, write_batches

from fieldtune import load_profile, open_bundle
from fieldtune.adapters import read_adapter, to_theta
from fieldtune.bundle import Bundle
from fieldtune.hardware import instruction_sets
from fieldtune.runtime import cpu_choice, open_session

PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulIntegerToFloat", "MatMulBnb4")
SHOWN = 12
"""Operators with a row of their own."""


class Profiled:
    """A session that records the time of each node."""

    def __init__(self, built: Bundle, folder: Path) -> None:
        self.bundle = built
        graph = built.manifest.graphs["gradient"]
        choice = cpu_choice(on_threads(load_profile("cpu-generic"), 1))
        self._session = open_session(
            built.graph_path("gradient"), choice, in_order=graph.in_order, profile_prefix=folder / built.root.name
        )
        self._theta = to_theta(read_adapter(built.adapter_path), built.manifest)
        self._runs = 0

    def run(self, batch: dict[str, Any]) -> None:
        """Go through one batch, forward and backward."""
        self._session.run(None, {**batch, "theta": self._theta})
        self._runs += 1

    def packed_weights(self) -> int:
        """Return how many weights of linear layers are packed."""
        packed = self.bundle.manifest.base.packed
        assert packed is not None
        with safe_open(self.bundle.root / "graphs" / "weights.safetensors", "numpy") as held:
            names = [name for name, recipe in packed.matrices.items() if recipe == packed.recipe]
            return 2 * sum(math.prod(held.get_slice(f"{name}.codes").get_shape()) for name in names)  # two a byte

    def end(self) -> dict[str, float]:
        """Return milliseconds of a run by operator."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        spent: dict[str, float] = collections.Counter()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["args"]["op_name"]] += event["dur"] / 1000 / self._runs
        return dict(spent)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Profile every model that is asked for, print its table, and return the figures."""
    cache = arguments.cache.resolve()
    print(f"{machine_line(1)}; {', '.join(instruction_sets())}\n")
    results: dict[str, Any] = {}
    for name in arguments.models:
        subject = SUBJECTS[name]
        with np.load(write_batches(subject, asset(name, cache), cache / "benchmarks" / f"{name}-profile.npz")) as held:
            batches = [{key: held[key][index] for key in held} for index in range(len(held["input_ids"]))]
        with tempfile.TemporaryDirectory() as folder:
            sessions = {
                base: Profiled(open_bundle(packed_bundle(name, base, cache)), Path(folder)) for base in arguments.bases
            }
            for number in range(1 if arguments.quick else arguments.rounds):
                say(f"{subject.title}: round {number + 1}")
                for session in sessions.values():
                    session.run(batches[number % len(batches)])
            spent = {base: session.end() for base, session in sessions.items()}
        print(result_table(subject.title, spent))
        print(*verdicts(spent, sessions), "", sep="\n")
        results[name] = spent
    return results


def result_table(title: str, spent: dict[str, dict[str, float]]) -> str:
    """Return the operators that take the most, in milliseconds of a step."""
    total: collections.Counter[str] = collections.Counter()
    for found in spent.values():
        total.update(found)
    shown = [operator for operator, _ in total.most_common(SHOWN)]
    rows = [[operator, *(f"{found.get(operator, 0):.1f}" for found in spent.values())] for operator in shown]
    others = [sum(found.values()) - sum(found.get(operator, 0) for operator in shown) for found in spent.values()]
    rows.append(["others", *(f"{value:.1f}" for value in others)])
    rows.append(["all", *(f"{sum(found.values()):.1f}" for found in spent.values())])
    return table([f"{title}: ms of a step", *spent], rows)


def verdicts(spent: dict[str, dict[str, float]], sessions: dict[str, Profiled]) -> list[str]:
    """Return what a product of integers and an unpacked weight take, where float32 was measured, too."""
    first = spent.get(BASES[0])
    if first is None:
        return []
    products = sum(first.get(operator, 0) for operator in PRODUCTS)
    lines = []
    for base, found in spent.items():
        integers = found.get("MatMulIntegerToFloat", 0)
        rest = sum(found.get(operator, 0) for operator in PRODUCTS) - integers
        if integers > rest:
            lines.append(f"{base}: products of integers have {(products - rest) / integers:.1f} times float32's rate.")
        elif base != BASES[0]:
            longer = sum(found.values()) - sum(first.values())
            weights = 2 * sessions[base].packed_weights()
            lines.append(
                f"{base}: a step takes {1e6 * longer / weights:.1f} ns longer for each weight that it unpacks."
            )
    return lines


def main() -> None:
    """Profile, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    flags.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES), help="default: all; float32 first")
    flags.add_argument("--rounds", type=int, default=12, help="steps of each base (default: 12)")
    arguments = flags.parse_args()
    print(f"Figures: {save('packed_products', arguments.cache, {'results': run(arguments)}, 1)}")


if __name__ == "__main__":
    main()
