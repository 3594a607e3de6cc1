"""The contenders of train_step.py and methods.py: processes that take optimizer steps when they are told to.

The first line on stdout tells of a first step; each number of steps on stdin is answered by a line with their losses,
seconds and CPU seconds. With --held, on Linux, there is also what the process holds since before it opened anything.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.01

Batch = Mapping[str, npt.NDArray[np.int64]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is trained: the base as transformers loads it, the bundle made from it, and the adapter in the bundle."""

    model: Path
    bundle: Path
    threads: int


class Contender(Protocol):
    """Takes optimizer steps: AdamW on the adapter, clipped, at a constant learning rate."""

    def step(self, batch: Batch) -> float:
        """Take one step and return the mean loss before it."""


class Fieldtune:
    """The device half: by default gradient.onnx on stock ONNX Runtime, and AdamW in NumPy."""

    def __init__(self, workload: Workload, backend: str = "portable", **runtime: bool) -> None:
        from fieldtune import load_profile, open_bundle
        from fieldtune.adapters import read_adapter, to_theta
        from fieldtune.hardware import features
        from fieldtune.runtime import choose_provider
        from fieldtune.training import AdamWConfig, open_backend

        profile = load_profile("cpu-generic")
        settings = dataclasses.replace(profile.runtime, threads=workload.threads, **runtime)
        bundle = open_bundle(workload.bundle)
        self._backend = open_backend(
            backend,
            bundle,
            choose_provider(dataclasses.replace(profile, runtime=settings), features().providers),
            to_theta(read_adapter(bundle.adapter_path), bundle.manifest),
            AdamWConfig(weight_decay=WEIGHT_DECAY),
            MAX_GRAD_NORM,
        )

    def step(self, batch: Batch) -> float:
        """Take one step and return the mean loss before it."""
        sums = self._backend.accumulate(batch, _labels(batch))
        self._backend.update(LEARNING_RATE)
        return sums.loss / sums.weight


def _labels(batch: Batch) -> int:
    """Count the labels that enter a batch's loss: of texts all but the first position's, for the model shifts them."""
    labels = batch["labels"]
    return int(np.count_nonzero((labels[:, 1:] if labels.ndim == 2 else labels) != -100))


def lean_fieldtune(workload: Workload) -> Fieldtune:
    """Return fieldtune with the settings of a profile for little memory."""
    return Fieldtune(workload, prepacking=False, arena=False, memory_pattern=False)


def official_fieldtune(workload: Workload) -> Fieldtune:
    """Return fieldtune on ONNX Runtime's own training API, with its training graph and its AdamW."""
    return Fieldtune(workload, backend="ort-training")


class TorchPeft:
    """Eager torch with PEFT, as transformers sets it up by default."""

    def __init__(self, workload: Workload) -> None:
        import torch

        torch.set_num_threads(workload.threads)
        self._torch = torch
        self._model = peft_model(workload.model, workload.bundle)
        self._optimizer = torch.optim.AdamW(parameter_groups(self._model, WEIGHT_DECAY), lr=LEARNING_RATE)
        self._parameters = [tensor for tensor in self._model.parameters() if tensor.requires_grad]

    def step(self, batch: Batch) -> float:
        """Take one step and return the mean loss before it."""
        loss = self._model(**{name: self._torch.from_numpy(array) for name, array in batch.items()}).loss
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A contender's name in tables, what starts it, its libraries, and its ONNX Runtime, if not the dev box's."""

    title: str
    start: Callable[[Workload], Contender]
    libraries: tuple[str, ...] = ("onnxruntime", "fieldtune.training")
    runtime: str | None = None


CONTENDERS = {
    "fieldtune": Entry("fieldtune", Fieldtune),
    "fieldtune-lean": Entry("fieldtune, lean", lean_fieldtune),
    "ort-training": Entry("official training runtime", official_fieldtune, runtime="onnxruntime-training-cpu==1.19.2"),
    "torch-peft": Entry("torch + PEFT", TorchPeft, ("torch", "transformers", "peft")),
}
"""In the order of the table's columns; the last is what the others are compared with."""


def peft_model(model: Path, bundle: Path) -> Any:
    """Return the base with a bundle's initial adapter, float32, dropout off, in transformers' own attention.

    Args:
        model: the folder of the base.
        bundle: its manifest says the task and the number of labels.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would warn of the new head, which the adapter brings
    logging.disable_progress_bar()
    task = json.loads((bundle / "manifest.json").read_text())["task"]
    if task["name"] == "text-classification":
        base = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=torch.float32, num_labels=len(task["labels"])
        )
    else:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        base.config.use_cache = False  # a cache is of no use in training and costs memory
    return PeftModel.from_pretrained(base, str(bundle / "adapter"), is_trainable=True).eval()


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return torch's parameter groups: matrices decay, biases and norms do not."""
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    return [
        {"params": [tensor for tensor in trained if tensor.ndim >= 2], "weight_decay": weight_decay},
        {"params": [tensor for tensor in trained if tensor.ndim < 2], "weight_decay": 0.0},
    ]


def resident(bundle: Path) -> float:
    """Return what this process holds: anonymous memory and mapped pages of model files, in megabytes."""
    held = 0
    counted = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            counted = line.endswith(".safetensors") or str(bundle) in line
        elif name == ("Rss:" if counted else "Anonymous:"):
            held += int(rest[0]) * 1024
    return held / 1e6


def main() -> None:
    """Take steps as told on stdin until it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--batches", type=Path, required=True, help=".npz; axis 0 of each array counts the batches")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--held", action="store_true", help="tell what is held, too; on Linux")
    arguments = parser.parse_args()

    # Whatever libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with np.load(arguments.batches) as arrays:
        stacked = dict(arrays)
    count = len(stacked["input_ids"])
    workload = Workload(model=arguments.model, bundle=arguments.bundle, threads=arguments.threads)
    entry = CONTENDERS[arguments.contender]
    for library in entry.libraries:
        importlib.import_module(library)
    before = resident(arguments.bundle) if arguments.held else 0
    contender = entry.start(workload)
    done = 0
    wanted = 1
    while wanted:
        losses, seconds, cpu_seconds = [], [], []
        for index in range(done, done + wanted):
            batch = {name: array[index % count] for name, array in stacked.items()}
            started, cpu = time.perf_counter(), time.process_time()
            losses.append(contender.step(batch))
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu)
        done += wanted
        answer = {"losses": losses, "seconds": seconds, "cpu_seconds": cpu_seconds}
        if arguments.held:
            answer["held_mb"] = resident(arguments.bundle) - before
        print(json.dumps(answer), file=answers, flush=True)
        wanted = int(sys.stdin.readline() or 0)


if __name__ == "__main__":
    main()
