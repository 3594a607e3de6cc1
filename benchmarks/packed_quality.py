"""What an adapter reaches on a packed base: trained there, and trained in float32 and moved there.

    python benchmarks/packed_quality.py --cache .cache
    python benchmarks/packed_quality.py --cache .cache --subjects entities --bases float32 int4 --seeds 0 1
    python benchmarks/packed_quality.py --cache .cache --quick

MiniLM learns sentiments (accuracy) and entities (F1), SmolLM2 dialogues (loss), each evaluated on held-out examples.
A seed decides the start of the adapter and of the head, and the order of the examples: the bundle's initial tensors are
shuffled by it, which draws them anew from the same distribution. Of one seed, every base starts from the same adapter
and sees the same batches. The settings are those of the demos, or else the defaults.

MiniLM's weights were never quantized. SmolLM2's come from a file of 4-bit blocks, so that packing them changes little.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import asset, bundle, machine_line, on_threads, parser, save, say, table
from packed_base import BASES, packed_bundle

from fieldtune import Bundle, TrainConfig, load_profile, open_bundle, train_adapter
from fieldtune.adapters import Adapter, from_theta, read_adapter, to_theta
from fieldtune.data import EncodedSet
from fieldtune.tasks import open_task
from fieldtune.training import Evaluation, evaluate, settle
from fieldtune_offline import BuildSpec, MethodSpec
from fieldtune_offline.spec import PrecisionSpec

ALLOWED = {"int8": (0.5, 1.0), "int4": (1.0, 2.0), "nf4": (1.0, 2.0)}
"""How far a base may be from float32: points of accuracy or F1, and percent of loss."""
QUICK_EXAMPLES = 96
PROFILE = on_threads(load_profile("cpu-generic"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is learned: a figure is compared in points, and the loss in percent where there is no figure."""

    title: str
    model: str
    data: str
    figure: str | None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SUBJECTS = {
    "sentiment": Subject(
        title="MiniLM, sentiment of 1,000 reviews",
        model="minilm",
        data="reviews",
        figure="accuracy",
    ),
    "entities": Subject(
        title="MiniLM, entities of 584 tweets",
        model="minilm",
        data="entities",
        figure="f1",
    ),
    "dialogues": Subject(
        title="SmolLM2, technical dialogues",
        model="smollm2",
        data="support",
        figure=None,
        config={"batch_size": 4, "learning_rate": 2e-3},
    ),
}


def built(name: str, base: str, cache: Path) -> Bundle:
    """Return the bundle of a subject on a base; but for entities they are those of packed_base.py."""
    subject = SUBJECTS[name]
    if name != "entities":
        return open_bundle(packed_bundle(subject.model, base, cache))
    spec = BuildSpec(
        model=str(asset(subject.model, cache)),
        task="token-classification",
        labels=tuple((asset(subject.data, cache) / "labels.txt").read_text(encoding="utf-8").split()),
        method=MethodSpec(target_modules=("query", "key", "value", "dense")),
        base=PrecisionSpec(name=base),
        out=cache / "bundles" / f"benchmark-entities-{base}",
    )
    return open_bundle(bundle(f"entities, {base}", spec))


def started(opened: Bundle, seed: int) -> Adapter:
    """Return the initial adapter with the numbers of each tensor in another order."""
    initial, rng = read_adapter(opened.adapter_path), np.random.default_rng(seed)
    theta = to_theta(initial, opened.manifest)
    for parameter in opened.manifest.layout.parameters:
        part = theta[parameter.offset : parameter.offset + parameter.size]
        rng.shuffle(part)
    return from_theta(theta, opened.manifest, initial, opened.manifest.task.labels, None)


def run_seed(name: str, bundles: Mapping[str, Bundle], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on every base from one start; return the figure and the loss of each, and of float32's adapter there."""
    subject = SUBJECTS[name]
    data = asset(subject.data, arguments.cache.resolve())
    chosen: dict[str, Any] = {"epochs": 1} if arguments.quick else {}
    reached: dict[str, Any] = {}
    first: Adapter | None = None
    start = started(next(iter(bundles.values())), seed)
    for base, opened in bundles.items():
        say(f"{subject.title}: seed {seed}, {base}")
        config = settle(TrainConfig(seed=seed, **subject.config, **chosen), PROFILE, opened.manifest)
        task = open_task(opened)
        most = QUICK_EXAMPLES if arguments.quick else None
        learned, held_out = (
            task.encode(task.read(data / file)[0][:most], max_length=config.max_length)
            for file in ("train.jsonl", "eval.jsonl")
        )
        report = train_adapter(opened, learned, config, PROFILE, evaluation=held_out, start=start)
        assert report.before is not None
        assert report.after is not None
        reached[base] = {"before": _of(subject, report.before), "trained": _of(subject, report.after)}
        first = first or report.adapter
        reached[base]["moved"] = moved(subject, opened, held_out, first)
    return {"seed": seed, "reached": reached}


def moved(subject: Subject, opened: Bundle, held_out: EncodedSet, adapter: Adapter) -> dict[str, float]:
    """Return what an adapter reaches that was trained on another base."""
    return _of(subject, evaluate(opened, held_out, PROFILE, adapter))


def _of(subject: Subject, evaluation: Evaluation) -> dict[str, float]:
    figure = evaluation.figure(subject.figure) if subject.figure else None
    return {"loss": evaluation.loss, **({} if figure is None else {"figure": figure})}


def result_table(name: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return what each base reaches with each seed, and how far that is from float32 in the mean."""
    subject = SUBJECTS[name]
    key = "figure" if subject.figure else "loss"
    apart = "points from float32" if subject.figure else "% from float32"
    bases = list(runs[0]["reached"])
    rows = []
    for base in bases:
        for how in ("trained", "moved")[: 1 if base == bases[0] else 2]:
            values = [run["reached"][base][how][key] for run in runs]
            distances = differences(subject, runs, base, how)
            rows.append(
                [
                    base if how == "trained" else f"{base}, adapter of {bases[0]}",
                    *(f"{value:.1%}" if subject.figure else f"{value:.4f}" for value in values),
                    f"{statistics.mean(values):.2%}" if subject.figure else f"{statistics.mean(values):.4f}",
                    "" if base == bases[0] else f"{statistics.mean(distances):+.2f}",
                    "" if base == bases[0] else f"{min(distances):+.2f} to {max(distances):+.2f}",
                ]
            )
    what = f"{subject.title}: {subject.figure or 'loss'}"
    return table([what, *(f"seed {run['seed']}" for run in runs), "mean", apart, "min to max"], rows)


def differences(subject: Subject, runs: Sequence[dict[str, Any]], base: str, how: str) -> list[float]:
    """Return how far a base is from the first one with each seed: in points, or in percent of the loss."""
    pairs = [(run["reached"][base][how], next(iter(run["reached"].values()))["trained"]) for run in runs]
    if subject.figure:
        return [100 * (one["figure"] - other["figure"]) for one, other in pairs]
    return [100 * (one["loss"] / other["loss"] - 1) for one, other in pairs]


def verdicts(name: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return which bases are as near to float32 as they are to be, by the mean over the seeds."""
    subject = SUBJECTS[name]
    lines = []
    for base in runs[0]["reached"]:
        if base in ALLOWED:
            allowed = ALLOWED[base][0 if subject.figure else 1]
            mean = statistics.mean(differences(subject, runs, base, "trained"))
            worse = -mean if subject.figure else mean
            unit = "points" if subject.figure else "%"
            within = "within" if worse <= allowed else "NOT within"
            lines.append(f"{base} is {within} {allowed} {unit} of float32 (worse by {worse:+.2f}).")
    return lines


def main() -> None:
    """Run every subject and seed, print the tables and what they show, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    flags.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES), help="default: all; float32 first")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    arguments = flags.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.seeds[:1]
    print(f"{machine_line()}\n")
    results = {}
    for name in arguments.subjects:
        bundles = {base: built(name, base, arguments.cache.resolve()) for base in arguments.bases}
        results[name] = [run_seed(name, bundles, seed, arguments) for seed in arguments.seeds]
        print(f"{result_table(name, results[name])}\n")
        print(*verdicts(name, results[name]), "", sep="\n", flush=True)
    print(f"Figures: {save('packed_quality', arguments.cache, {'results': results})}")


if __name__ == "__main__":
    main()
