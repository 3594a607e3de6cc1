"""What each method costs beside LoRA: a training step, and an answer with its adapter loaded.

    python benchmarks/methods.py --cache .cache
    python benchmarks/methods.py --cache .cache --models minilm --rounds 6
    python benchmarks/methods.py --cache .cache --quick

The same models, batches and turns as in train_step.py, and the same modules with each method's defaults. Every method
trains in a process of its own; they take turns of a few steps, the first of which is not timed. Answers are those of
one process: one token of SmolLM2 after 64 others, one text of MiniLM, with adapters far from their initial ones, and
without an adapter. Ratios are of figures of one turn, min / median / max. All run on one thread, so that CPU time tells
what they cost where others use the machine, too.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, Child, asset, bundle, machine_line, on_threads, parser, ratios, save, say, table
from train_step import SUBJECTS, Subject, subject_spec, write_batches

from fieldtune import Runner, load_profile, open_bundle
from fieldtune.adapters import Adapter, from_theta, method_named, read_adapter, to_theta
from fieldtune.bundle import PAST, Bundle

METHODS = ("lora", "dora", "ia3", "miss")
"""The others are compared with the first."""
WITHOUT = "no adapter"
THREADS = 1
"""So that CPU time is work alone, and none of it one thread's waiting for another that somebody else's work held up."""
MOST = 1.10
"""A step of DoRA beside LoRA's."""
PAST_TOKENS = 64
TURN_ANSWERS = 8

STEP_ROWS = (("step_ms", "step, ms", 1), ("step_cpu_ms", "step, CPU ms", 1), ("peak_mb", "peak memory, MB", 0))
ANSWER_ROWS = (("answer_ms", "ms", 2), ("answer_cpu_ms", "CPU ms", 2))
"""Figure, what the table calls it, and how many digits after the point it has there."""

Figures = dict[str, dict[str, list[float]]]
"""Figure → contender → what was measured; equal places of two contenders' lists belong together."""


def build(name: str, method: str, cache: Path) -> Path:
    """Return the bundle of a subject with a method."""
    return bundle(f"{name}, {title(method)}", subject_spec(name, f"benchmark-{name}-{method}", cache, method))


def title(contender: str) -> str:
    """Return what tables call a method, or the run without an adapter."""
    return contender if contender == WITHOUT else method_named(contender, "the benchmark").title


def time_steps(
    subject: Subject, model: Path, bundles: Mapping[str, Path], batches: Path, *, rounds: int, turns: int
) -> Figures:
    """Train with every method in turn."""
    program = REPOSITORY / "benchmarks" / "contenders.py"
    figures: Figures = {field: {name: [] for name in bundles} for field, *_ in STEP_ROWS}
    for number in range(1, rounds + 1):
        say(f"{subject.title}: round {number} of {rounds}")
        children = {}
        for name, built in bundles.items():
            flags = ["--model", model, "--bundle", built, "--batches", batches, "--threads", THREADS]
            children[name] = Child([sys.executable, program, "fieldtune", *flags])
        for _ in range(turns):
            for name, child in children.items():
                answer = child.ask(str(subject.turn_steps + 1))
                figures["step_ms"][name].append(1000 * statistics.median(answer["seconds"][1:]))
                figures["step_cpu_ms"][name].append(1000 * statistics.median(answer["cpu_seconds"][1:]))
        for name, child in children.items():
            figures["peak_mb"][name].append(child.close())
    return figures


def moved(opened: Bundle) -> Adapter:
    """Return an adapter of a bundle that differs from the initial one in every tensor."""
    manifest, initial = opened.manifest, read_adapter(opened.adapter_path)
    theta = to_theta(initial, manifest)
    theta += np.random.default_rng(0).normal(0, 0.02, theta.shape).astype(np.float32)
    return from_theta(theta, manifest, initial, manifest.task.labels, None)


def sample(opened: Bundle, sequence: int) -> dict[str, Any]:
    """Return one full text, or one token after others where the model keeps them."""
    rng, specs = np.random.default_rng(1), opened.manifest.graphs["infer"].inputs
    length, past = (1, PAST_TOKENS) if any(spec.name.startswith(PAST) for spec in specs) else (sequence, 0)
    fed: dict[str, Any] = {
        "input_ids": rng.integers(1000, 20000, (1, length)),
        "attention_mask": np.ones((1, past + length), np.int64),
        "position_ids": np.arange(past, past + length)[None],
    }
    for spec in specs:
        if spec.name.startswith(PAST):
            _, heads, _, size = spec.shape
            fed[spec.name] = rng.normal(0, 1, (1, heads, past, size)).astype(np.float32)
    return {spec.name: fed[spec.name] for spec in specs}


def answers_of(bundles: Mapping[str, Path], sequence: int) -> dict[str, Callable[[], object]]:
    """Open what answers with each method's adapter, and without one."""
    profile = on_threads(load_profile("cpu-generic"), THREADS)

    def answering(runner: Runner, adapter: Adapter | None) -> Callable[[], object]:
        loaded = None if adapter is None else runner.load_adapter(adapter, "moved")
        fed = sample(runner.bundle, sequence)
        return lambda: runner.run(fed, loaded)

    runners = {name: Runner(open_bundle(path), profile) for name, path in bundles.items()}
    answered = {name: answering(runner, moved(runner.bundle)) for name, runner in runners.items()}
    return {**answered, WITHOUT: answering(runners["lora"], None)}


def time_answers(bundles: Mapping[str, Path], sequence: int, *, rounds: int, turns: int) -> Figures:
    """Let everyone answer in turn.

    Sessions are opened again in each round, and in another order: one opening of a graph and the next answer at speeds
    that are up to a tenth apart, more than methods are.
    """
    figures: Figures = {field: {name: [] for name in (*bundles, WITHOUT)} for field, *_ in ANSWER_ROWS}
    names = list(bundles)
    for number in range(rounds):
        first = number % len(names)
        order = {name: bundles[name] for name in (*names[first:], *names[:first])}
        take_turns(answers_of(order, sequence), turns, figures)
    return figures


def take_turns(contenders: Mapping[str, Callable[[], object]], turns: int, figures: Figures) -> None:
    """Add the turns of a round to the figures; the first answer of a turn is not timed."""
    for answer in contenders.values():
        answer()  # a session's first run is slower
    for _ in range(turns):
        for name, answer in contenders.items():
            answer()
            clocks = [(time.perf_counter(), time.process_time())]
            for _ in range(TURN_ANSWERS):
                answer()
                clocks.append((time.perf_counter(), time.process_time()))
            walls, cpus = zip(*((b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(clocks)), strict=True)
            figures["answer_ms"][name].append(1000 * statistics.median(walls))
            figures["answer_cpu_ms"][name].append(1000 * statistics.median(cpus))


def figures_table(what: str, figures: Figures, rows: Sequence[tuple[str, str, int]]) -> str:
    """Return medians of all, and ratios of each to the first."""
    first, *others = next(iter(figures.values()))
    lines = []
    for field, called, digits in rows:
        contenders = figures[field]
        medians = [f"{statistics.median(contenders[name]):.{digits}f}" for name in contenders]
        lines.append([called, *medians, *(ratios(contenders[name], contenders[first]).text(2) for name in others)])
    columns = [title(name) for name in (first, *others)]
    return table([what, *columns, *(f"{column} : {columns[0]}" for column in columns[1:])], lines)


def verdict(steps: Figures) -> str:
    """Return whether DoRA's step takes at most what it may, in CPU time."""
    cpu_ms = steps["step_cpu_ms"]
    if "dora" not in cpu_ms:
        return ""
    small = ratios(cpu_ms["dora"], cpu_ms["lora"]).median <= MOST
    return f" DoRA's step takes {'at most' if small else 'MORE THAN'} {MOST:.2f} times LoRA's."


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one subject, print its tables and return its figures."""
    cache, subject = arguments.cache.resolve(), SUBJECTS[name]
    rounds, turns = (1, 2) if arguments.quick else (arguments.rounds, arguments.turns)
    model = asset(name, cache)
    bundles = {method: build(name, method, cache) for method in METHODS if method in ("lora", *arguments.methods)}
    batches = write_batches(subject, model, cache / "benchmarks" / f"{name}-batches.npz")
    steps = time_steps(subject, model, bundles, batches, rounds=rounds, turns=turns)
    print(figures_table(f"{subject.title}, {subject.batch} rows of {subject.sequence} tokens", steps, STEP_ROWS))
    print(f"\n{rounds} rounds of {turns} turns.{verdict(steps)}\n", flush=True)
    served = time_answers(bundles, subject.sequence, rounds=rounds, turns=turns)
    asked = f"one text of {subject.sequence} tokens" if subject.labels else f"one token after {PAST_TOKENS}"
    print(f"{figures_table(f'{subject.title}, {asked}', served, ANSWER_ROWS)}\n", flush=True)
    return {
        "subject": dataclasses.asdict(subject),
        "rounds": rounds,
        "turns": turns,
        "figures": {**steps, **served},
    }


def main() -> None:
    """Measure, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    others = METHODS[1:]
    flags.add_argument("--methods", nargs="+", choices=others, default=others, help="beside LoRA; default: all")
    flags.add_argument("--rounds", type=int, default=3, help="how often every process is started (default: 3)")
    flags.add_argument("--turns", type=int, default=8, help="turns of steps in a round (default: 8)")
    arguments = flags.parse_args()
    print(f"{machine_line(THREADS)}\n")
    results = {name: measure(name, arguments) for name in arguments.models}
    print(f"Figures: {save('methods', arguments.cache, {'results': results}, THREADS)}")


if __name__ == "__main__":
    main()
