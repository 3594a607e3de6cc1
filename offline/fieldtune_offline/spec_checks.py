"""Whether the fields of a spec fit each other, before the minutes of a build."""

import dataclasses

from fieldtune.errors import ExportError, UnsupportedModel
from fieldtune_offline.precisions.table import FLOAT32
from fieldtune_offline.spec import BuildSpec, MergeSpec, changed, flags
from fieldtune_offline.tasks.interface import Task

_FOR_TARGETS = ("calibration", "calibration_examples", "quantizer")


def checked_spec(spec: BuildSpec, task: type[Task]) -> BuildSpec:
    """Return a spec whose fields fit each other; targets without a split get the cheapest one.

    Raises:
        ValueError: a size that is too small, or settings that exclude each other.
        UnsupportedModel: a task that cannot be split.
        ExportError: calibration examples that are not there.
    """
    for name in ("batch", "sequence"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if spec.method.rank is not None and spec.method.rank < 1:
        raise ValueError(f"rank is {spec.method.rank}; expected at least 1")
    check_calibration(spec)
    if spec.base.name not in (None, FLOAT32):
        _check_packed(spec)
    if spec.target:
        spec = dataclasses.replace(spec, split="auto") if spec.split == "none" else spec
    if spec.split != "none":
        _check_split(spec, task)
    return spec


def check_calibration(spec: BuildSpec | MergeSpec) -> None:
    """Check that targets have calibration examples, and that whatever says how to quantize has targets.

    Raises:
        ValueError: one without the other, or too few examples.
        ExportError: calibration examples that are not there.
    """
    if spec.calibration_examples < 1:
        raise ValueError(f"calibration_examples is {spec.calibration_examples}; expected at least 1")
    if not spec.target:
        given = [name for name in _FOR_TARGETS if name in changed(spec)]
        if given:
            raise ValueError(f"{flags(spec, given)}: of targets only; name one with --target, or leave it out")
        return
    if spec.calibration is None:
        raise ValueError(
            f"the target {', '.join(spec.target)} needs --calibration: examples of the task, from which quantization "
            "takes its ranges"
        )
    if not spec.calibration.exists():
        raise ExportError(f"{spec.calibration}: no such file or folder of calibration examples")


def _check_packed(spec: BuildSpec) -> None:
    """Refuse what is made of float32 graphs alone."""
    if spec.ort_training:
        raise UnsupportedModel(
            f"--base {spec.base.name}: the official training artifacts are float32; leave --base or --ort-training out"
        )


def _check_split(spec: BuildSpec, task: type[Task]) -> None:
    if isinstance(spec.split, int) and spec.split < 1:
        raise ValueError(f"split is {spec.split}; expected at least 1 block, auto or none")
    if isinstance(spec.split, int) and spec.adapter is not None:
        raise ValueError(
            f"--split {spec.split} says where a new adapter goes, and {spec.adapter} has its own modules; take --split "
            "auto, which cuts below the first of them"
        )
    if task.unsplittable is not None:
        raise UnsupportedModel(f"{task.name} cannot be split: {task.unsplittable}; build without --split")
    if spec.batch is not None:
        raise ValueError("a split bundle takes any batch; leave --batch out (a target's batch is its profile's)")
    if task.modality == "text" and spec.sequence is None:
        raise ValueError(
            "a split of texts needs --sequence: what is carried across the boundary has one size for every text"
        )
