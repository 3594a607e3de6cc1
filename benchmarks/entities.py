"""A whole training run on named entities: fieldtune beside torch + PEFT on the same batches.

    python benchmarks/entities.py --cache .cache
    python benchmarks/entities.py --cache .cache --epochs 5 --seed 1
    python benchmarks/entities.py --cache .cache --quick

MiniLM learns the entities of 1,700 tweets, ten types of them, and is evaluated on 584 others. Both sides start from the
bundle's adapter and see the same batches, in the same order and at the same learning rates; torch brings its own
forward pass, loss, gradients, AdamW, clipping and schedule. Dropout is off in both. All linear layers of the encoder
have LoRA, since a tag needs more of the encoder than a sentiment does; else the settings are the defaults.

Of both sides, entities are counted from the logits by the same code, leniently and strictly, as seqeval does it. Losses
are compared step by step.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import THREADS, asset, bundle, machine_line, on_threads, parser, save, say, table
from contenders import parameter_groups

from fieldtune import Bundle, HardwareProfile, TrainConfig, load_profile, open_bundle, train_adapter
from fieldtune.data import EncodedSet, batch_of, plan_evaluation
from fieldtune.tasks import Figure, Task, open_task
from fieldtune.training import settle
from fieldtune.training.plan import count_steps, plan_steps
from fieldtune_offline import BuildSpec, MethodSpec

POINT = 0.01
"""One point of F1, within which fieldtune is to be of torch."""
EARLY_STEPS, EARLY_TOLERANCE, TOLERANCE = 20, 1e-5, 1e-4
"""How far losses of one step may be apart, in nats: rounding in the first steps, and what it has grown to in all."""
QUICK_EXAMPLES = 96
SHOWN = ("f1", "precision", "recall", "strict_f1", "strict_precision", "strict_recall", "token_accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """All that both runs share; the config has its sizes filled in."""

    model: Path
    bundle: Bundle
    task: Task
    profile: HardwareProfile
    config: TrainConfig
    train_set: EncodedSet
    held_out: EncodedSet

    def arrays(self, examples: EncodedSet, indices: Any) -> dict[str, Any]:
        """Return the arrays of a batch."""
        return batch_of(examples.examples, indices, self.bundle.manifest.graphs["gradient"].inputs)

    def microbatches(self) -> Iterator[list[Any]]:
        """Yield the indices of each optimizer step's microbatches, as fieldtune's own loop takes them."""
        for step in plan_steps(self.train_set.lengths, self.config):
            yield list(step.microbatches)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one side reached: held-out figures by name, the loss of every step, and seconds with evaluation."""

    figures: dict[str, float]
    losses: list[float]
    seconds: float


def run_fieldtune(setting: Setting) -> Run:
    """Train and evaluate with the device half."""
    started = time.perf_counter()
    report = train_adapter(
        setting.bundle, setting.train_set, setting.config, setting.profile, evaluation=setting.held_out
    )
    assert report.after is not None
    return Run(
        figures=by_name(report.after.figures),
        losses=[step.loss for step in report.steps],
        seconds=time.perf_counter() - started,
    )


def run_torch(setting: Setting) -> Run:
    """Train and evaluate with torch, transformers and PEFT."""
    from transformers import get_scheduler

    started, config = time.perf_counter(), setting.config
    model = peft_model(setting)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    total = count_steps(len(setting.train_set.examples), config)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    schedule = get_scheduler(config.schedule, optimizer, config.warmup().count(total), total)
    losses = []
    for microbatches in setting.microbatches():
        # The mean is over all labels of a step, however they are spread over its batches.
        weight = sum(setting.train_set.weight(indices) for indices in microbatches)
        loss = 0.0
        for indices in microbatches:
            batch = tensors(setting.arrays(setting.train_set, indices))
            part = model(**batch).loss * (setting.train_set.weight(indices) / weight)
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
    return Run(figures=torch_figures(model, setting), losses=losses, seconds=time.perf_counter() - started)


def peft_model(setting: Setting) -> Any:
    """Return the base with the bundle's adapter, float32, dropout off, in transformers' own attention."""
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of the new head, which the adapter brings
    logging.disable_progress_bar()
    labels = len(setting.bundle.manifest.task.labels)
    base = AutoModelForTokenClassification.from_pretrained(setting.model, dtype=torch.float32, num_labels=labels)
    return PeftModel.from_pretrained(base, str(setting.bundle.adapter_path), is_trainable=True).eval()


@torch.no_grad()
def torch_figures(model: Any, setting: Setting) -> dict[str, float]:
    """Return the held-out figures of torch's own logits."""
    meter = setting.task.meter(setting.held_out)
    for indices in plan_evaluation(setting.held_out.lengths, 32):
        arrays = setting.arrays(setting.held_out, indices)
        logits = model(**{name: value for name, value in tensors(arrays).items() if name != "labels"}).logits
        meter.add(indices, arrays, {"logits": logits.numpy()})
    return by_name(meter.figures(0.0))


def tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return arrays as torch takes them."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def by_name(figures: tuple[Figure, ...]) -> dict[str, float]:
    """Return the values of figures."""
    return {figure.name: figure.value for figure in figures}


def prepare(arguments: argparse.Namespace) -> Setting:
    """Build the bundle and read the data."""
    cache = arguments.cache.resolve()
    model, data = asset("minilm", cache), asset("entities", cache)
    spec = BuildSpec(
        model=str(model),
        task="token-classification",
        labels=tuple((data / "labels.txt").read_text().split()),
        method=MethodSpec(target_modules=("query", "key", "value", "dense")),
        out=cache / "bundles" / f"benchmark-entities-{arguments.seed}",
        seed=arguments.seed,
    )
    opened = open_bundle(bundle("for named entities", spec))
    profile = on_threads(load_profile("cpu-generic"))
    config = settle(TrainConfig(seed=arguments.seed, epochs=arguments.epochs), profile, opened.manifest)
    task = open_task(opened)
    most = QUICK_EXAMPLES if arguments.quick else None
    train_set, held_out = (
        task.encode(task.read(data / name)[0][:most], max_length=config.max_length)
        for name in ("train.jsonl", "eval.jsonl")
    )
    return Setting(
        model=model,
        bundle=opened,
        task=task,
        profile=profile,
        config=config,
        train_set=train_set,
        held_out=held_out,
    )


def result_table(ours: Run, theirs: Run) -> str:
    """Return the held-out figures of both sides, and how far they are apart."""
    rows = []
    for name in SHOWN:
        pair = [run.figures[name] for run in (ours, theirs)]
        rows.append(
            [name.replace("_", " "), *(f"{value:.2%}" for value in pair), f"{100 * abs(pair[0] - pair[1]):.2f}"]
        )
    last = [f"{run.losses[-1]:.4f}" for run in (ours, theirs)]
    rows.append(["loss of the last step", *last, ""])
    rows.append(["seconds, evaluation included", *(f"{run.seconds:.0f}" for run in (ours, theirs)), ""])
    return table(["held-out sentences", "fieldtune", "torch + PEFT", "points apart"], rows)


def verdicts(ours: Run, theirs: Run) -> list[str]:
    """Return what the runs show, in sentences."""
    apart = np.abs(np.array(ours.losses) - theirs.losses)
    early, late = float(apart[:EARLY_STEPS].max()), float(apart.max())
    points = max(abs(ours.figures[name] - theirs.figures[name]) for name in ("f1", "strict_f1"))
    near, soon, always = (
        "within" if apart <= limit else "NOT within"
        for apart, limit in ((points, POINT), (early, EARLY_TOLERANCE), (late, TOLERANCE))
    )
    start = f"{early:.0e} apart in the first {EARLY_STEPS} steps ({soon} {EARLY_TOLERANCE:.0e})"
    whole = f"{late:.0e} in all {len(apart)} ({always} {TOLERANCE:.0e})"
    return [
        f"F1, lenient and strict, is {near} 1 point of torch + PEFT ({100 * points:.2f}).",
        f"Losses of one step are at most {start}, and {whole}.",
    ]


def main() -> None:
    """Run both sides, print the table and what it shows, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--seed", type=int, default=0, help="of the new head, lora_A and the order; default: 0")
    flags.add_argument("--epochs", type=int, default=3, help="default: 3")
    arguments = flags.parse_args()
    if arguments.quick:
        arguments.epochs = 1
    torch.set_num_threads(THREADS)
    setting = prepare(arguments)
    say("fieldtune")
    ours = run_fieldtune(setting)
    say("torch + PEFT")
    theirs = run_torch(setting)
    print(f"{machine_line()}\n\n{result_table(ours, theirs)}\n")
    print(*verdicts(ours, theirs), sep="\n")
    runs = {"fieldtune": dataclasses.asdict(ours), "torch": dataclasses.asdict(theirs)}
    file = save("entities", arguments.cache, {"config": dataclasses.asdict(setting.config), "runs": runs})
    print(f"\nFigures: {file}")


if __name__ == "__main__":
    main()
