"""Train what you deploy: adapters trained against the INT8 prefix beside adapters trained in float32 and moved to it.

    python benchmarks/int8_prefix.py --cache .cache
    python benchmarks/int8_prefix.py --cache .cache --seeds 0 1 --target kv260 --epochs 2 --test 1000
    python benchmarks/int8_prefix.py --cache .cache --quantizer quark
    python benchmarks/int8_prefix.py --cache .cache --quick

EfficientNet-Lite0 learns 2,000 images of Fashion-MNIST and is evaluated on others. The frozen prefix is quantized for a
target and emulated. A seed decides the new head, lora_A and the order of the images; of one seed, both runs start from
the same adapter and see the same batches, of the target's size; all else is as fieldtune.TrainConfig has it.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import asset, bundle, machine_line, on_threads, parser, save, say, table

from fieldtune import Bundle, HardwareProfile, TrainConfig, load_profile, open_bundle, train_adapter
from fieldtune.adapters import Adapter
from fieldtune.compilation import compile_prefix
from fieldtune.data import EncodedSet
from fieldtune.tasks import open_task
from fieldtune.training.evaluation import evaluate
from fieldtune_offline import BuildSpec, MethodSpec

ADAPTED = {"target_modules": r"blocks\.1[345]\.(expand|project)|head", "r": 8, "lora_alpha": 16}
POINT = 0.01
BELOW = 0.5 * POINT
"""How far an adapter trained against the INT8 prefix may be below the moved one with any seed."""

DEPLOYED, MOVED, FLOAT = "trained on INT8, runs on INT8", "trained in float32, runs on INT8", "float32 throughout"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """All that the runs of one seed share."""

    bundle: Bundle
    target: HardwareProfile
    cpu: HardwareProfile
    config: TrainConfig
    train_set: EncodedSet
    test_set: EncodedSet

    def trained(self, profile: HardwareProfile) -> Adapter:
        """Return the adapter of a run on a profile."""
        return train_adapter(self.bundle, self.train_set, self.config, profile, on_missing="emulate").adapter

    def accuracy(self, profile: HardwareProfile, adapter: Adapter) -> float:
        """Return the part of the test images whose class is the likeliest one."""
        accuracy = evaluate(self.bundle, self.test_set, profile, adapter, on_missing="emulate").figure("accuracy")
        assert accuracy is not None
        return accuracy


def prepare(seed: int, arguments: argparse.Namespace) -> Setting:
    """Build the bundle of a seed, compile its prefix, and read the images."""
    cache = arguments.cache.resolve()
    model, images = asset("efficientnet-lite0", cache), asset("fashion", cache)
    settings = cache / "bundles" / "benchmark-fashion-lora.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(ADAPTED), encoding="utf-8")
    first = [json.loads(line)["label"] for line in (images / "train.jsonl").read_text().splitlines()]
    spec = BuildSpec(
        model=str(model),
        task="image-classification",
        labels=tuple(dict.fromkeys(first)),
        method=MethodSpec(peft_config=settings),
        trust_remote_code=True,
        split="auto",
        target=(arguments.target,),
        quantizer=arguments.quantizer,
        calibration=images / "train.jsonl",
        out=cache / "bundles" / f"benchmark-fashion-{_variant(arguments)}-{seed}",
        seed=seed,
    )
    opened = open_bundle(bundle(f"of seed {seed}", spec))
    target, cpu = (on_threads(load_profile(name)) for name in (arguments.target, "cpu-generic"))
    compile_prefix(opened, target, on_missing="emulate")
    task = open_task(opened)
    parts = {name: task.read(images / f"{name}.jsonl")[0] for name in ("train", "test")}
    return Setting(
        bundle=opened,
        target=target,
        cpu=cpu,
        # Profiles differ in how they batch, which by itself moves accuracies as far as what is compared here.
        config=TrainConfig(
            seed=seed,
            epochs=arguments.epochs,
            batch_size=target.training.batch_size,
            gradient_accumulation=target.training.gradient_accumulation,
        ),
        train_set=task.encode(parts["train"][: arguments.train]),
        test_set=task.encode(parts["test"][: arguments.test]),
    )


def _variant(arguments: argparse.Namespace) -> str:
    """Return what tells the prefixes of one seed apart."""
    return f"{arguments.target}-{arguments.quantizer}"


def run_seed(setting: Setting) -> dict[str, Any]:
    """Train both ways; return the accuracies by row."""
    seed = setting.config.seed
    say(f"seed {seed}: training against the INT8 prefix")
    deployed = setting.trained(setting.target)
    say(f"seed {seed}: training in float32")
    moved = setting.trained(setting.cpu)
    say(f"seed {seed}: evaluating")
    accuracies = {
        DEPLOYED: setting.accuracy(setting.target, deployed),
        MOVED: setting.accuracy(setting.target, moved),
        FLOAT: setting.accuracy(setting.cpu, moved),
    }
    say(f"seed {seed}: " + ", ".join(f"{row} {accuracy:.2%}" for row, accuracy in accuracies.items()))
    return {"seed": seed, "accuracy": accuracies}


def result_table(runs: Sequence[dict[str, Any]]) -> str:
    """Return accuracy by row and seed, with mean and spread, and the difference of the two on INT8."""
    rows = []
    for name in (DEPLOYED, MOVED, FLOAT):
        accuracies = [run["accuracy"][name] for run in runs]
        spread = f"{min(accuracies):.1%} to {max(accuracies):.1%}"
        rows.append([name, *(f"{value:.2%}" for value in accuracies), f"{statistics.mean(accuracies):.2%}", spread])
    gains = differences(runs)
    spread = f"{100 * min(gains):+.2f} to {100 * max(gains):+.2f}"
    mean = f"{100 * statistics.mean(gains):+.2f}"
    rows.append(["first less second, points", *(f"{100 * gain:+.2f}" for gain in gains), mean, spread])
    return table(["accuracy", *(f"seed {run['seed']}" for run in runs), "mean", "min to max"], rows)


def differences(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Return how far the adapter trained against INT8 is above the moved one, with each seed."""
    return [run["accuracy"][DEPLOYED] - run["accuracy"][MOVED] for run in runs]


def verdicts(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the table shows, in sentences."""
    gains = differences(runs)
    worst, mean = min(gains), statistics.mean(gains)
    # Accuracies are multiples of one image; the margin is for their rounding in binary.
    near = "at most 0.5 point" if worst >= -BELOW - 1e-9 else "MORE than 0.5 point"
    equal = "at least as accurate" if mean >= -1e-9 else "LESS accurate"
    return [
        f"Trained against the INT8 prefix, an adapter is {near} below one moved to it (worst {100 * worst:+.2f}).",
        f"In the mean it is {equal} ({100 * mean:+.2f} points).",
    ]


def main() -> None:
    """Run every seed, print the table and what it shows, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    flags.add_argument("--target", default="vek280", help="profile to quantize for; default: vek280")
    flags.add_argument("--quantizer", choices=["ort", "quark"], default="ort", help="of the prefix; default: ort")
    flags.add_argument("--epochs", type=int, default=5, help="default: 5")
    flags.add_argument("--train", type=int, default=2000, help="images to train on, of 2,000")
    flags.add_argument("--test", type=int, default=4000, help="images to test on, of 9,000; default: 4000")
    arguments = flags.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.train, arguments.test = arguments.seeds[:1], 1, 200, 200
    runs = [run_seed(prepare(seed, arguments)) for seed in arguments.seeds]
    print(f"{machine_line()}\n\n{result_table(runs)}\n")
    print(*verdicts(runs), sep="\n")
    settings = {name: getattr(arguments, name) for name in ("target", "quantizer", "epochs", "train", "test")}
    file: Path = save(f"int8_prefix_{_variant(arguments)}", arguments.cache, {"settings": settings, "runs": runs})
    print(f"\nFigures: {file}")


if __name__ == "__main__":
    main()
