"""train_adapter: from a bundle and examples to an adapter and the report of the run."""

from fieldtune.adapters import Adapter
from fieldtune.bundle import Bundle
from fieldtune.hardware import HardwareProfile, OnMissing
from fieldtune.runtime import ProviderChoice
from fieldtune.training.config import TrainConfig
from fieldtune.training.events import Progress
from fieldtune.training.opening import Examples, open_run
from fieldtune.training.report import RunDiverged, TrainReport


def train_adapter(
    bundle: Bundle,
    examples: Examples,
    config: TrainConfig,
    profile: HardwareProfile,
    *,
    evaluation: Examples | None = None,
    start: Adapter | None = None,
    on_missing: OnMissing | None = None,
    choice: ProviderChoice | None = None,
    progress: Progress = lambda _: None,
) -> TrainReport:
    """Train an adapter on examples.

    The same bundle, examples, config and start give the same losses, bit for bit, on one machine with one version of
    ONNX Runtime and one number of threads. A KeyboardInterrupt ends the run with the work so far
    (``stopped="interrupted"``).

    Args:
        bundle: as for ``open_run``, and so are the other arguments.
        examples: to learn from.
        config: how to train.
        profile: of the device.
        evaluation: held-out examples.
        start: the adapter to continue.
        on_missing: what to do where the profile's provider is not there.
        choice: the provider, where it has been chosen already.
        progress: is told what happens.

    Raises:
        RunDiverged: a TrainingDiverged; its report holds the last good adapter.
        FieldtuneError: whatever ``open_run`` raises.
        ValueError: as ``open_run``.
    """
    with open_run(
        bundle,
        examples,
        config,
        profile,
        evaluation=evaluation,
        start=start,
        on_missing=on_missing,
        choice=choice,
        progress=progress,
    ) as opened:
        outcome = opened.train()
        report = opened.report()
    if outcome.fault:
        raise RunDiverged(outcome.fault, report)
    return report
