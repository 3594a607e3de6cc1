"""Question answering: fieldtune's device half beside torch + PEFT, on the same batches from the same adapter.

    python benchmarks/questions.py --cache .cache
    python benchmarks/questions.py --cache .cache --epochs 4 --seed 1
    python benchmarks/questions.py --cache .cache --quick

MiniLM with LoRA on every linear layer learns to answer questions on short texts about countries (the asset "countries"
of demo/assets.py); the countries it is measured on are not among those it learns from. Both contenders take each step
on the same arrays, one after the other, with AdamW, the same clipping, warm-up and learning rate. Losses are compared
step by step. Sums are rounded otherwise in both, and every step carries the difference into the next one, where it
grows: the tolerance is of the first epoch, and what becomes of the difference later is told. Figures are SQuAD's exact
match and F1, both by fieldtune's decoding, from each contender's logits.
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import THREADS, asset, bundle, machine_line, on_threads, parser, save, say, table
from contenders import parameter_groups

from fieldtune import TrainConfig, load_profile, open_bundle
from fieldtune.adapters import read_adapter, to_theta
from fieldtune.bundle import Bundle
from fieldtune.data import EncodedSet
from fieldtune.placement import choose_for
from fieldtune.tasks import Task, open_task
from fieldtune.training import AdamWConfig, Evaluation, evaluate_with, open_batches, settle
from fieldtune.training.backends.portable import PortableBackend
from fieldtune.training.batch_source import BatchSource
from fieldtune.training.evaluation import Evaluated
from fieldtune.training.plan import count_steps, plan_steps
from fieldtune.training.schedules import learning_rate
from fieldtune_offline import BuildSpec, MethodSpec

BATCH = 16
TOLERANCE = 1e-4
"""Largest difference of a step's losses that passes in the first epoch, relative to the loss."""

Batch = Mapping[str, npt.NDArray[Any]]


class TorchPeft:
    """Eager torch with PEFT, dropout off, the bundle's initial adapter on the base as transformers loads it."""

    def __init__(self, model: Path, opened: Bundle, config: TrainConfig) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForQuestionAnswering
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would warn of the new head, which the adapter brings
        logging.disable_progress_bar()
        warnings.simplefilter("ignore", FutureWarning)  # what PEFT asks of transformers is of no use here
        torch.set_num_threads(THREADS)
        base = AutoModelForQuestionAnswering.from_pretrained(model, dtype=torch.float32)
        self._torch, self._clip = torch, config.max_grad_norm
        self._model = PeftModel.from_pretrained(base, str(opened.adapter_path), is_trainable=True).eval()
        groups = parameter_groups(self._model, config.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        self._parameters = [tensor for group in groups for tensor in group["params"]]

    def step(self, batch: Batch, rate: float) -> float:
        """Take one step and return the mean loss before it."""
        loss = self._model(**self._tensors(batch)).loss
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())

    def evaluate(self, batch: Batch, weight: float) -> Evaluated:
        """Return what eval.onnx would."""
        with self._torch.no_grad():
            outputs = self._model(**self._tensors(batch))
        logits = {name: getattr(outputs, name).numpy() for name in ("start_logits", "end_logits")}
        return Evaluated(float(outputs.loss) * weight, weight, logits)

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array) for name, array in batch.items()}


@dataclasses.dataclass(slots=True)
class Contender:
    """What was measured of one."""

    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    before: Evaluation | None = None
    after: Evaluation | None = None


def train(
    config: TrainConfig,
    encoded: EncodedSet,
    source: BatchSource,
    steps: Mapping[str, Any],
    contenders: dict[str, Contender],
) -> None:
    """Take every step of the plan with each contender."""
    total = count_steps(len(encoded.examples), config)
    for step in plan_steps(encoded.lengths, config):
        (indices,) = step.microbatches
        batch = source.batch("gradient", encoded, indices)
        rate = learning_rate(
            step.number - 1,
            total_steps=total,
            peak=config.learning_rate,
            schedule=config.schedule,
            warmup_steps=config.warmup().count(total),
        )
        for name, take in steps.items():
            started = time.perf_counter()
            contenders[name].losses.append(take(batch, rate))
            contenders[name].seconds.append(time.perf_counter() - started)
        if step.ends_epoch or step.number % 24 == 0:
            losses = ", ".join(f"{name} {np.mean(one.losses[-20:]):.3f}" for name, one in contenders.items())
            say(f"step {step.number} of {total}: mean loss of the last 20 steps: {losses}")


def difference(ours: list[float], theirs: list[float]) -> npt.NDArray[np.float64]:
    """Return how far two runs' losses are apart in each step, as parts of the second's."""
    one, other = np.array(ours), np.array(theirs)
    return np.abs(one - other) / np.abs(other)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate both, print the tables, return the results."""
    cache = arguments.cache.resolve()
    model, data = asset("minilm", cache), asset("countries", cache)
    spec = BuildSpec(
        model=str(model),
        task="question-answering",
        method=MethodSpec(target_modules=("all-linear",)),
        out=cache / "bundles" / "benchmark-questions",
    )
    opened = open_bundle(bundle("MiniLM for questions", spec))
    profile, task = on_threads(load_profile("cpu-generic")), open_task(opened)
    steps = 4 if arguments.quick else None
    config = TrainConfig(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed, batch_size=BATCH,
        gradient_accumulation=1, max_steps=steps,
    )  # fmt: skip
    config = settle(config, profile, opened.manifest)
    print(f"{machine_line()}\n")
    learned, held_out = (encoded_of(task, data / f"{part}.json", arguments.quick) for part in ("train", "eval"))
    contenders = {"fieldtune": Contender(), "torch + PEFT": Contender()}
    choice = choose_for(opened, profile)
    with open_batches(opened, profile, choice, config.cache) as source:
        theta = to_theta(read_adapter(opened.adapter_path), opened.manifest)
        optimizer = AdamWConfig(weight_decay=config.weight_decay)
        ours = PortableBackend(opened, source.choice, theta, optimizer, config.max_grad_norm)
        theirs = TorchPeft(model, opened, config)

        def step(batch: Batch, rate: float) -> float:
            sums = ours.accumulate(batch, len(batch["input_ids"]))
            ours.update(rate)
            return sums.loss / sums.weight

        evaluators = {"fieldtune": ours.evaluate, "torch + PEFT": theirs.evaluate}
        for name, forward in evaluators.items():
            contenders[name].before = evaluate_with(forward, held_out, task, source, BATCH)
        train(config, learned, source, {"fieldtune": step, "torch + PEFT": theirs.step}, contenders)
        for name, forward in evaluators.items():
            contenders[name].after = evaluate_with(forward, held_out, task, source, BATCH)
    return told(contenders, config, (learned, held_out))


def encoded_of(task: Task, file: Path, quick: bool) -> EncodedSet:
    """Return the questions of a file; of a quick run the first ones."""
    examples, _ = task.read(file)
    return task.encode(examples[:70] if quick else examples)


def told(contenders: dict[str, Contender], config: TrainConfig, sets: tuple[EncodedSet, EncodedSet]) -> dict[str, Any]:
    """Print the tables and return the figures."""
    ours, theirs = contenders.values()
    assert ours.before is not None
    assert ours.after is not None
    rows = [["loss, before", *(f"{one.before.loss:.4f}" for one in contenders.values() if one.before)]]
    rows.append(["loss, after", *(f"{one.after.loss:.4f}" for one in contenders.values() if one.after)])
    for number, figure in enumerate(ours.after.figures):
        for when in ("before", "after"):
            values = [getattr(one, when).figures[number].value for one in contenders.values()]
            rows.append([f"{figure.words}, {when}", *(f"{100 * value:.1f} %" for value in values)])
    print(table(["questions about other countries", *contenders], rows))
    apart = difference(ours.losses, theirs.losses)
    within = min(len(apart), count_steps(len(sets[0].examples), dataclasses.replace(config, epochs=1)))
    early, first, worst = (float(some.max()) for some in (apart[:20], apart[:within], apart))
    print(
        f"\nLearned from: {'; '.join(sets[0].notes)}; measured on: {'; '.join(sets[1].notes)}.\n"
        f"{len(apart)} steps of {BATCH} windows, {config.epochs} epochs, learning rate {config.learning_rate:g}, seed "
        f"{config.seed}. Losses differ by at most {early:.1e} in the first 20 steps, {first:.1e} in the "
        f"first epoch (tolerance {TOLERANCE:g}) and {worst:.1e} in all.\n",
        flush=True,
    )
    return {
        "config": {"epochs": config.epochs, "learning_rate": config.learning_rate, "seed": config.seed, "batch": BATCH},
        "windows": [len(one.examples) for one in sets],
        "loss_difference": {"first_20_steps": early, "first_epoch": first, "all_steps": worst},
        "tolerance": TOLERANCE,
        "contenders": {
            name: {
                "losses": one.losses,
                "seconds": one.seconds,
                "before": one.before and one.before.to_json(),
                "after": one.after and one.after.to_json(),
            }
            for name, one in contenders.items()
        },
    }


def main() -> None:
    """Measure, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--epochs", type=int, default=2, help="how often each question is learned (default: 2)")
    flags.add_argument("--learning-rate", type=float, default=1e-3, help="its peak (default: 1e-3)")
    flags.add_argument("--seed", type=int, default=0, help="of the order of the questions (default: 0)")
    arguments = flags.parse_args()
    results = run(arguments)
    print(f"Figures: {save('questions', arguments.cache, {'results': results})}")
    worst = results["loss_difference"]["first_epoch"]
    if worst > TOLERANCE:
        raise SystemExit(f"losses of the first epoch differ by {worst:.1e}; expected at most {TOLERANCE:g}")


if __name__ == "__main__":
    main()
