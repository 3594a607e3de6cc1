"""Time, memory and cold start of training: fieldtune's device half beside torch + PEFT, on the same batches.

    python benchmarks/train_step.py --cache .cache
    python benchmarks/train_step.py --cache .cache --models minilm --rounds 5
    python benchmarks/train_step.py --cache .cache --quick

Every contender runs in processes of its own, which stay alive and step in turn. In a round each contender is started
afresh (cold start: from the start of the process to the end of its first step, the files in the page cache), then they
take turns of some steps, and end (peak memory: the largest resident set of the process). Figures are medians; ratios
are of figures taken one right after the other, and given as min / median / max. On a machine that others use, too, the
fastest steps are the least disturbed ones. "fieldtune, lean" is fieldtune with a hardware profile for little memory:
prepacking, arena and memory_pattern off; "official training runtime" is fieldtune with the backend ort-training, in an
environment with onnxruntime-training-cpu 1.19.2, which keeps no packed weights either.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    REPOSITORY,
    THREADS,
    Child,
    asset,
    bundle,
    interpreter,
    machine_line,
    parser,
    ratios,
    save,
    say,
    table,
)
from contenders import CONTENDERS

from fieldtune_offline import BuildSpec, MethodSpec

BATCHES = 4
"""Different batches that the steps go round in."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model and the shape of its batches; ``turn_steps`` is how many steps are timed before another's turn."""

    title: str
    task: str
    labels: tuple[str, ...]
    target_modules: tuple[str, ...]
    batch: int
    sequence: int
    turn_steps: int


SUBJECTS = {
    "minilm": Subject(
        title="MiniLM (22.7 M), classification",
        task="text-classification",
        labels=("negative", "positive"),
        target_modules=("query", "value"),
        batch=8,
        sequence=64,
        turn_steps=4,
    ),
    "smollm2": Subject(
        title="SmolLM2 (135 M), generation",
        task="text-generation",
        labels=(),
        target_modules=("q_proj", "v_proj"),
        batch=2,
        sequence=128,
        turn_steps=2,
    ),
}


@dataclasses.dataclass(slots=True)
class Figures:
    """What was measured of one contender; equal places of two contenders' lists belong together."""

    step_ms: list[float] = dataclasses.field(default_factory=list)
    fastest_ms: list[float] = dataclasses.field(default_factory=list)
    peak_mb: list[float] = dataclasses.field(default_factory=list)
    cold_start_s: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)


ROWS = (
    ("step_ms", "step, ms", 1),
    ("fastest_ms", "fastest step of a round, ms", 1),
    ("peak_mb", "peak memory, MB", 0),
    ("cold_start_s", "cold start, s", 2),
)
"""Field of Figures, what the table calls it, and how many digits after the point it has there."""


def write_batches(subject: Subject, model: Path, file: Path) -> Path:
    """Write random full rows; of generation, the first half of each is a prompt without labels."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    rng = np.random.default_rng(0)
    input_ids = rng.integers(0, vocabulary, (BATCHES, subject.batch, subject.sequence))
    if subject.labels:
        labels = rng.integers(0, len(subject.labels), (BATCHES, subject.batch))
    else:
        labels = input_ids.copy()
        labels[:, :, : subject.sequence // 2] = -100
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, input_ids=input_ids, attention_mask=np.ones_like(input_ids), labels=labels)
    return file


def subject_spec(name: str, folder: str, cache: Path, method: str = "lora") -> BuildSpec:
    """Return what the bundle of a subject is built from, in a folder of the cache."""
    subject = SUBJECTS[name]
    return BuildSpec(
        model=str(asset(name, cache)),
        task=subject.task,
        labels=subject.labels,
        method=MethodSpec(name=method, target_modules=subject.target_modules),
        out=cache / "bundles" / folder,
    )


def commands(name: str, cache: Path) -> dict[str, list[object]]:
    """Fetch and build what a subject needs; return the command that starts each contender on it."""
    subject = SUBJECTS[name]
    model = asset(name, cache)
    built = bundle(name, dataclasses.replace(subject_spec(name, f"benchmark-{name}", cache), ort_training=True))
    batches = write_batches(subject, model, cache / "benchmarks" / f"{name}-batches.npz")
    program = REPOSITORY / "benchmarks" / "contenders.py"
    flags = ["--model", model, "--bundle", built, "--batches", batches, "--threads", THREADS]
    return {name: [interpreter(entry.runtime, cache), program, name, *flags] for name, entry in CONTENDERS.items()}


def measure(subject: Subject, starts: dict[str, list[object]], *, rounds: int, turns: int) -> dict[str, Figures]:
    """Run the rounds of one subject."""
    figures = {name: Figures() for name in starts}
    for command in starts.values():
        Child(command).close()  # brings the files into the page cache
    for number in range(1, rounds + 1):
        say(f"{subject.title}: round {number} of {rounds}")
        children = {name: Child(command) for name, command in starts.items()}
        for name, child in children.items():
            figures[name].cold_start_s.append(child.start_s)
            figures[name].losses.extend(child.first["losses"])
        timed: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(turns):
            for name, child in children.items():
                # The first step of a turn finds the caches full of the other's data, and is not timed.
                answer = child.ask(str(subject.turn_steps + 1))
                figures[name].losses.extend(answer["losses"])
                seconds = answer["seconds"][1:]
                figures[name].step_ms.append(1000 * statistics.median(seconds))
                timed[name].extend(seconds)
        for name, child in children.items():
            figures[name].fastest_ms.append(1000 * min(timed[name]))
            figures[name].peak_mb.append(child.close())
    return figures


def subject_table(subject: Subject, figures: dict[str, Figures]) -> str:
    """Return the table of one subject: medians, and ratios of each contender to the last."""
    *others, last = figures
    columns = [CONTENDERS[name].title for name in figures]
    compared = [f"{title} : {columns[-1]}" for title in columns[:-1]]
    rows = []
    for field, what, digits in ROWS:
        values = {name: getattr(figures[name], field) for name in figures}
        medians = [f"{statistics.median(values[name]):.{digits}f}" for name in figures]
        rows.append([what, *medians, *(ratios(values[other], values[last]).text(2) for other in others)])
    return table([f"{subject.title}, {subject.batch} rows of {subject.sequence} tokens", *columns, *compared], rows)


def loss_difference(figures: dict[str, Figures]) -> float:
    """Return the largest relative difference of a step's loss from the last contender's."""
    *others, last = (np.array(measured.losses) for measured in figures.values())
    return max(float(np.max(np.abs(other - last) / np.abs(last))) for other in others)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every subject that is asked for, print its table, and return the results."""
    cache = arguments.cache.resolve()
    rounds, turns = (1, 2) if arguments.quick else (arguments.rounds, arguments.turns)
    results: dict[str, Any] = {}
    print(f"{machine_line()}\n")
    for name in arguments.models:
        subject = SUBJECTS[name]
        figures = measure(subject, commands(name, cache), rounds=rounds, turns=turns)
        difference = loss_difference(figures)
        *others, last = figures
        steps = len(figures[last].losses)
        print(subject_table(subject, figures))
        print(
            f"\n{rounds} rounds of {turns} turns; losses of {steps} steps differ by at most {difference:.1e}.\n",
            flush=True,
        )
        results[name] = {
            "subject": dataclasses.asdict(subject),
            "rounds": rounds,
            "turns": turns,
            "loss_relative_difference": difference,
            "figures": {contender: dataclasses.asdict(measured) for contender, measured in figures.items()},
            "ratios": {
                other: {
                    field: dataclasses.asdict(ratios(getattr(figures[other], field), getattr(figures[last], field)))
                    for field, *_ in ROWS
                }
                for other in others
            },
        }
    return results


def main() -> None:
    """Measure, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    flags.add_argument("--rounds", type=int, default=3, help="how often every contender is started (default: 3)")
    flags.add_argument("--turns", type=int, default=8, help="turns of steps in a round (default: 8)")
    arguments = flags.parse_args()
    results = run(arguments)
    print(f"Figures: {save('train_step', arguments.cache, {'results': results})}")


if __name__ == "__main__":
    main()
