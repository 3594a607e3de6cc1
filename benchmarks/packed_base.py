"""Training on a packed base: time and memory of a step with each precision, beside float32 and torch + PEFT.

    python benchmarks/packed_base.py --cache .cache
    python benchmarks/packed_base.py --cache .cache --models minilm --bases float32 int8 --rounds 5
    python benchmarks/packed_base.py --cache .cache --quick

The models, batches and turns are those of train_step.py: every contender is a process of its own, started afresh in
each round, and they step in turn. Each precision runs with the profile `cpu-generic` and, as "lean", with prepacking,
arena and memory_pattern off. Figures are medians; ratios are of figures taken one right after the other, given as
min / median / max. "Base" is what the process holds for the bundle: mapped pages of its weights, and the anonymous
memory that came since before it was opened, after a step of one row of 8 tokens, so that hardly any of it is
activations; libraries are not in it. Peak memory is the largest resident set of the process.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import REPOSITORY, THREADS, Child, asset, bundle, machine_line, parser, ratios, save, say, table
from train_step import SUBJECTS, Figures, Subject, loss_difference, measure, subject_spec, write_batches

from fieldtune_offline.spec import PrecisionSpec

BASES = ("float32", "int8", "int4", "nf4")
"""The others are compared with the first."""
SETTINGS = {"": "fieldtune", ", lean": "fieldtune-lean"}
"""What the table adds to a precision's name, and the contender of contenders.py."""
TORCH = "torch + PEFT"
SMALL: dict[str, Any] = {"batch": 1, "sequence": 8}


def packed_bundle(name: str, base: str, cache: Path) -> Path:
    """Return the bundle of a subject on a base, built where it is not there."""
    spec = subject_spec(name, f"benchmark-{name}-{base}", cache)
    return bundle(f"{name}, {base}", dataclasses.replace(spec, base=PrecisionSpec(name=base)))


def commands(name: str, bases: list[str], cache: Path) -> Callable[[Subject], dict[str, list[object]]]:
    """Build what a subject needs; return what gives the commands that start each contender on batches of a shape."""
    model = asset(name, cache)
    bundles = {base: packed_bundle(name, base, cache) for base in bases}
    program = REPOSITORY / "benchmarks" / "contenders.py"

    def of(shape: Subject) -> dict[str, list[object]]:
        file = cache / "benchmarks" / f"{name}-{shape.batch}x{shape.sequence}.npz"
        flags = ["--model", model, "--batches", write_batches(shape, model, file), "--threads", THREADS]
        starts: dict[str, list[object]] = {}
        for base, built in bundles.items():
            for ending, contender in SETTINGS.items():
                starts[base + ending] = [sys.executable, program, contender, "--bundle", built, *flags]
        starts[TORCH] = [sys.executable, program, "torch-peft", "--bundle", bundles[bases[0]], *flags]
        return starts

    return of


def base_memory(starts: dict[str, list[object]]) -> dict[str, float]:
    """Return what each contender holds after a small step, in megabytes."""
    held = {}
    for name, command in starts.items():
        child = Child([*command, "--held"])
        held[name] = child.first["held_mb"]
        child.close()
    return held


def result_table(subject: Subject, figures: dict[str, Figures], held: dict[str, float]) -> str:
    """Return a line for each contender, with its ratios to torch, and to float32 with the same setting."""
    first = next(iter(figures))
    rows = []
    for name, found in figures.items():
        like = name if name == TORCH else first + name.removeprefix(name.split(",")[0])
        rows.append(
            [
                name,
                f"{statistics.median(found.step_ms):.0f}",
                ratios(figures[TORCH].step_ms, found.step_ms).text(2),
                "" if name == TORCH else ratios(found.step_ms, figures[like].step_ms).text(2),
                f"{statistics.median(found.peak_mb):.0f}",
                f"{ratios(found.peak_mb, figures[TORCH].peak_mb).median:.2f}",
                f"{held[name]:.0f}",
                "" if name == TORCH else f"{held[name] / held[like]:.2f}",
            ]
        )
    head = [f"{subject.title}, {subject.batch} x {subject.sequence}", "step, ms", "times torch's speed", ": float32"]
    return table([*head, "peak, MB", f": {TORCH}", "base, MB", ": float32"], rows)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every subject that is asked for, print its table, and return the figures."""
    cache = arguments.cache.resolve()
    rounds, turns = (1, 2) if arguments.quick else (arguments.rounds, arguments.turns)
    results: dict[str, Any] = {}
    print(f"{machine_line()}\n")
    for name in arguments.models:
        subject = SUBJECTS[name]
        of = commands(name, arguments.bases, cache)
        say(f"{subject.title}: memory of the base")
        held = base_memory(of(dataclasses.replace(subject, **SMALL)))
        figures = measure(subject, of(subject), rounds=rounds, turns=turns)
        exact = {name: found for name, found in figures.items() if name.startswith(("float32", TORCH))}
        print(result_table(subject, figures, held))
        print(f"\n{rounds} rounds of {turns} turns; float32's losses differ by at most {loss_difference(exact):.1e}.\n")
        results[name] = {
            "subject": dataclasses.asdict(subject),
            "rounds": rounds,
            "turns": turns,
            "held_mb": held,
            "figures": {contender: dataclasses.asdict(measured) for contender, measured in figures.items()},
        }
    return results


def main() -> None:
    """Measure, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    flags.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES), help="default: all; float32 first")
    flags.add_argument("--rounds", type=int, default=3, help="how often every contender is started (default: 3)")
    flags.add_argument("--turns", type=int, default=5, help="turns of steps in a round (default: 5)")
    arguments = flags.parse_args()
    results = run(arguments)
    print(f"Figures: {save('packed_base', arguments.cache, {'results': results})}")


if __name__ == "__main__":
    main()
