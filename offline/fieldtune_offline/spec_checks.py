"""Whether the fields of a spec fit each other, before the minutes of a build."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fieldtune.data.examples import IMAGE_CLASSIFICATION
from fieldtune.errors import ExportError, UnsupportedModel
from fieldtune_offline.spec import BuildSpec


def checked_spec(spec: BuildSpec, task: str) -> BuildSpec:
    """Return a spec whose fields fit each other; targets without a split get the cheapest one.

    Raises:
        ValueError: a size that is too small, or settings that exclude each other.
        UnsupportedModel: a task that cannot be split.
        ExportError: calibration examples that are not there.
    """
    for name in ("batch", "sequence", "calibration_examples"):
        value = getattr(spec, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if spec.lora.rank < 1:
        raise ValueError(f"rank is {spec.lora.rank}; expected at least 1")
    check_calibration(spec.target, spec.calibration)
    if spec.target:
        spec = dataclasses.replace(spec, split="auto") if spec.split == "none" else spec
    if spec.split != "none":
        _check_split(spec, task)
    return spec


def check_calibration(target: Sequence[str], calibration: Path | None) -> None:
    """Check that targets have calibration examples, and that these have targets.

    Raises:
        ValueError: one without the other.
        ExportError: calibration examples that are not there.
    """
    if calibration is None:
        if target:
            raise ValueError(
                f"the target {', '.join(target)} needs --calibration: examples of the task, from which quantization "
                "takes its ranges"
            )
        return
    if not target:
        raise ValueError("calibration examples are for targets; name one with --target, or leave --calibration out")
    if not calibration.exists():
        raise ExportError(f"{calibration}: no such file or folder of calibration examples")


def _check_split(spec: BuildSpec, task: str) -> None:
    if isinstance(spec.split, int) and spec.split < 1:
        raise ValueError(f"split is {spec.split}; expected at least 1 block, auto or none")
    if task == "text-generation":
        raise UnsupportedModel(
            "text-generation cannot be split: decoding on an accelerator would need graphs of its own for the prompt "
            "and for one token; build without --split"
        )
    if spec.batch is not None:
        raise ValueError("a split bundle takes any batch; leave --batch out (a target's batch is its profile's)")
    if task != IMAGE_CLASSIFICATION and spec.sequence is None:
        raise ValueError(
            "a split of texts needs --sequence: what is carried across the boundary has one size for every text"
        )
