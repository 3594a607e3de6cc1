"""Whole training runs on real reviews: fieldtune beside torch + PEFT, head-only training and the majority class.

    python benchmarks/parity_run.py --cache .cache
    python benchmarks/parity_run.py --cache .cache --seeds 0 1 --epochs 1
    python benchmarks/parity_run.py --cache .cache --quick

MiniLM learns 2,000 movie-review snippets and is evaluated on 1,000 others. A seed decides the new head, lora_A and the
order of the examples. Of one seed, fieldtune and torch start from the same adapter (the bundle's) and see the same
batches; torch brings its own forward pass, gradients, AdamW, clipping and schedule. The settings are the defaults of
fieldtune.TrainConfig, which are those of `make demo`. Dropout is off in both.

Head only: torch trains the new head on the frozen encoder, with the same settings; and, since a head alone likes other
learning rates, once more with the best of several, chosen on the held-out examples themselves, in its favour.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import THREADS, asset, bundle, machine_line, on_threads, parser, save, say, table
from contenders import parameter_groups, peft_model

from fieldtune import Bundle, HardwareProfile, TrainConfig, load_profile, open_bundle, train_adapter
from fieldtune.data import EncodedSet, batch_of, plan_evaluation
from fieldtune.tasks import open_task
from fieldtune.training import settle
from fieldtune.training.plan import count_steps, plan_steps
from fieldtune_offline import BuildSpec, MethodSpec

LABELS = ("negative", "positive")
HEAD_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
POINT = 0.01
"""One point of accuracy, within which fieldtune is to be of torch."""

MAJORITY, HEAD, BEST_HEAD, TORCH, FIELDTUNE = (
    "majority class",
    "head only, torch",
    "head only, torch, best learning rate",
    "LoRA, torch + PEFT",
    "LoRA, fieldtune",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """All that the runs of one seed share; the config has its sizes filled in."""

    model: Path
    bundle: Bundle
    profile: HardwareProfile
    config: TrainConfig
    train_set: EncodedSet
    held_out: EncodedSet

    def batch(self, examples: EncodedSet, indices: Any) -> dict[str, torch.Tensor]:
        """Return the arrays of a batch as torch takes them."""
        arrays = batch_of(examples.examples, indices, self.bundle.manifest.graphs["gradient"].inputs)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def microbatches(self) -> Iterator[list[Any]]:
        """Yield the indices of each optimizer step's microbatches, as fieldtune's own loop takes them."""
        for step in plan_steps(self.train_set.lengths, self.config):
            yield list(step.microbatches)


class Optimization:
    """AdamW, the schedule and the clipping of a config, by torch and transformers."""

    def __init__(self, model: Any, setting: Setting, peak: float) -> None:
        from transformers import get_scheduler

        config = setting.config
        total = count_steps(len(setting.train_set.examples), config)
        self._parameters = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self._optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=peak)
        self._schedule = get_scheduler(config.schedule, self._optimizer, config.warmup().count(total), total)
        self._max_norm = config.max_grad_norm

    def step(self) -> None:
        """Clip the gradients that are there, take a step, and clear them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()


def run_fieldtune(setting: Setting) -> tuple[float, list[float]]:
    """Return the held-out accuracy and the loss of every step."""
    report = train_adapter(
        setting.bundle, setting.train_set, setting.config, setting.profile, evaluation=setting.held_out
    )
    assert report.after is not None
    accuracy = report.after.figure("accuracy")
    assert accuracy is not None
    return accuracy, [step.loss for step in report.steps]


def run_torch(setting: Setting) -> tuple[float, list[float]]:
    """Return the held-out accuracy and the loss of every step."""
    model = peft_model(setting.model, setting.bundle.root)
    optimization = Optimization(model, setting, setting.config.learning_rate)
    losses = []
    for microbatches in setting.microbatches():
        total = sum(map(len, microbatches))
        loss = 0.0
        for indices in microbatches:
            part = model(**setting.batch(setting.train_set, indices)).loss * (len(indices) / total)
            part.backward()
            loss += float(part.detach())
        optimization.step()
        losses.append(loss)
    return torch_accuracy(model, setting), losses


@torch.no_grad()
def torch_accuracy(model: Any, setting: Setting) -> float:
    """Return the part of the held-out examples whose class is the likeliest one."""
    correct = 0
    for indices in plan_evaluation(setting.held_out.lengths, 32):
        batch = setting.batch(setting.held_out, indices)
        labels = batch.pop("labels")
        correct += int((model(**batch).logits.argmax(-1) == labels).sum())
    return correct / len(setting.held_out.examples)


def run_heads(setting: Setting) -> dict[float, float]:
    """Train the head alone at each learning rate; return the held-out accuracies."""
    # The frozen encoder gives an example the same features in every epoch, so they are computed once.
    model = peft_model(setting.model, setting.bundle.root)
    learned, held_out = (head_inputs(model, setting, examples) for examples in (setting.train_set, setting.held_out))
    accuracies = {}
    for rate in (setting.config.learning_rate, *HEAD_RATES):
        head = torch.nn.Linear(learned[0].shape[1], len(LABELS))
        head.load_state_dict(new_head(model).state_dict())
        optimization = Optimization(head, setting, rate)
        for microbatches in setting.microbatches():
            indices = torch.from_numpy(np.concatenate(microbatches))
            torch.nn.functional.cross_entropy(head(learned[0][indices]), learned[1][indices]).backward()
            optimization.step()
        with torch.no_grad():
            accuracies[rate] = int((head(held_out[0]).argmax(-1) == held_out[1]).sum()) / len(held_out[1])
    return accuracies


def new_head(model: Any) -> torch.nn.Linear:
    """Return the head that the bundle's adapter brings."""
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert isinstance(head, torch.nn.Linear)
    return head


@torch.no_grad()
def head_inputs(model: Any, setting: Setting, examples: EncodedSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the head sees of each example (float32, shape (examples, hidden)), and the labels (int64)."""
    seen: list[torch.Tensor] = []
    hook = new_head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    order = plan_evaluation(examples.lengths, 32)
    labels = []
    for indices in order:
        batch = setting.batch(examples, indices)
        labels.append(batch["labels"])
        model(**batch)
    hook.remove()
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    return torch.cat(seen)[back], torch.cat(labels)[back]


def prepare(seed: int, arguments: argparse.Namespace) -> Setting:
    """Build the bundle of a seed and read the data as it wants them."""
    cache = arguments.cache.resolve()
    model, reviews = asset("minilm", cache), asset("reviews", cache)
    spec = BuildSpec(
        model=str(model),
        task="text-classification",
        labels=LABELS,
        method=MethodSpec(target_modules=("query", "value")),
        out=cache / "bundles" / f"benchmark-reviews-{seed}",
        seed=seed,
    )
    opened = open_bundle(bundle(f"of seed {seed}", spec))
    profile = on_threads(load_profile("cpu-generic"))
    config = TrainConfig(seed=seed) if arguments.epochs is None else TrainConfig(seed=seed, epochs=arguments.epochs)
    config = settle(config, profile, opened.manifest)
    task = open_task(opened)
    train_set, held_out = (
        task.encode(task.read(reviews / name)[0], max_length=config.max_length)
        for name in ("train.jsonl", "eval.jsonl")
    )
    return Setting(model=model, bundle=opened, profile=profile, config=config, train_set=train_set, held_out=held_out)


def majority_accuracy(examples: EncodedSet) -> float:
    """Return what naming the most frequent class every time reaches."""
    classes = [int(example.arrays["labels"]) for example in examples.examples]
    return float(np.bincount(classes).max() / len(classes))


def run_seed(setting: Setting) -> dict[str, Any]:
    """Run everything with one seed; return accuracies by row, and how far the two LoRA runs are apart."""
    seed = setting.config.seed
    say(f"seed {seed}: fieldtune")
    ours, our_losses = run_fieldtune(setting)
    say(f"seed {seed}: torch + PEFT")
    theirs, their_losses = run_torch(setting)
    say(f"seed {seed}: head only")
    heads = run_heads(setting)
    difference = np.abs(np.array(our_losses) - their_losses)
    return {
        "seed": seed,
        "accuracy": {
            MAJORITY: majority_accuracy(setting.held_out),
            HEAD: heads[setting.config.learning_rate],
            BEST_HEAD: max(heads.values()),
            TORCH: theirs,
            FIELDTUNE: ours,
        },
        "head_accuracy_by_learning_rate": heads,
        "loss_difference_20_steps": float(difference[:20].max()),
        "loss_difference": float(difference.max()),
        "losses": {FIELDTUNE: our_losses, TORCH: their_losses},
    }


def result_table(runs: Sequence[dict[str, Any]]) -> str:
    """Return held-out accuracy by row and seed, with mean and spread, and the distance of the two LoRA runs."""
    rows = []
    for name in (MAJORITY, HEAD, BEST_HEAD, TORCH, FIELDTUNE):
        accuracies = [run["accuracy"][name] for run in runs]
        mean, spread = f"{statistics.mean(accuracies):.2%}", f"{min(accuracies):.1%} to {max(accuracies):.1%}"
        rows.append([name, *(f"{value:.1%}" for value in accuracies), mean, spread])
    apart = distances(runs)
    points = [f"{100 * value:.1f}" for value in apart]
    mean, spread = f"{100 * statistics.mean(apart):.2f}", f"{points[apart.index(min(apart))]} to {max(points)}"
    rows.append(["fieldtune from torch, points", *points, mean, spread])
    return table(["held-out accuracy", *(f"seed {run['seed']}" for run in runs), "mean", "min to max"], rows)


def distances(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Return how far the accuracies of fieldtune and torch are apart, of each seed."""
    return [abs(run["accuracy"][FIELDTUNE] - run["accuracy"][TORCH]) for run in runs]


def verdicts(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the table shows, in sentences."""
    apart = max(distances(runs))
    beaten = all(run["accuracy"][FIELDTUNE] > run["accuracy"][BEST_HEAD] for run in runs)
    # Accuracies are multiples of one example; the margin is for their rounding in binary.
    within = apart <= POINT + 1e-9
    early, late = (max(run[key] for run in runs) for key in ("loss_difference_20_steps", "loss_difference"))
    steps = len(runs[0]["losses"][FIELDTUNE])
    distance = f"{'within' if within else 'NOT within'} 1 point of torch + PEFT with every seed"
    return [
        f"fieldtune is {distance} (largest distance {100 * apart:.1f} points).",
        f"fieldtune's LoRA {'beats' if beaten else 'does NOT beat'} the best head-only training with every seed.",
        f"Losses of one step are at most {early:.0e} apart in the first 20 steps and {late:.0e} in all {steps}.",
    ]


def main() -> None:
    """Run every seed, print the table and what it shows, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    flags.add_argument("--epochs", type=int, help=f"default: {TrainConfig().epochs}, as in the demo")
    arguments = flags.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs = arguments.seeds[:1], 1
    torch.set_num_threads(THREADS)
    settings = [prepare(seed, arguments) for seed in arguments.seeds]
    runs = [run_seed(setting) for setting in settings]
    config = settings[0].config
    print(f"{machine_line()}\n\n{result_table(runs)}\n")
    print(*verdicts(runs), sep="\n")
    file = save("parity_run", arguments.cache, {"config": dataclasses.asdict(config), "runs": runs})
    print(f"\nFigures: {file}")


if __name__ == "__main__":
    main()
