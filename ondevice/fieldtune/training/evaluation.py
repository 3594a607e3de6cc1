"""Evaluation: loss and the task's figures of an adapter on examples."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from fieldtune.activations import CacheSettings
from fieldtune.adapters import Adapter, inference_inputs, initial_adapter
from fieldtune.bundle import Batch, Bundle, Manifest
from fieldtune.data import EncodedSet, plan_evaluation
from fieldtune.files import json_value
from fieldtune.hardware import HardwareProfile, OnMissing
from fieldtune.placement import choose_for, open_graph
from fieldtune.runtime import ProviderChoice, run_session
from fieldtune.tasks import Figure, Outputs, Task, open_task
from fieldtune.training.batch_source import BatchSource, open_batches

_DEFAULT_CACHE = CacheSettings()
_SUMS = ("loss_sum", "weight")

Ticks: TypeAlias = Callable[[int, int], None]
"""Is told how many batches are done, and of how many."""


class Evaluated(NamedTuple):
    """What one batch gives: its summed loss, what that is a sum over, and the graph's other outputs by name."""

    loss: float
    weight: float
    outputs: Outputs


Forward: TypeAlias = Callable[[Batch, float], Evaluated]
"""Evaluates one adapter on a batch, given the weight of its examples."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an adapter reaches on examples.

    Attributes:
        examples: how many there were.
        labels: how many labels the loss is a mean of: classes, or tokens that the model had to write.
        loss: mean cross-entropy of a label, in nats.
        figures: of the task, the one that matters most first.
        seconds: wall-clock time, an emulation of the prefix included.
    """

    examples: int
    labels: int
    loss: float
    figures: tuple[Figure, ...]
    seconds: float

    def figure(self, name: str) -> float | None:
        """Return the value of a figure; None if the task has none of that name."""
        return next((figure.value for figure in self.figures if figure.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return it as json.dumps takes it, each figure by its name."""
        figures = {figure.name: figure.value for figure in self.figures}
        fields = {"examples": self.examples, "labels": self.labels, "loss": self.loss, **figures}
        return {**json_value(fields), "seconds": self.seconds}


def other_outputs(manifest: Manifest) -> tuple[str, ...]:
    """Return what eval.onnx gives beside loss and weight, in its order."""
    names = (spec.name for spec in manifest.graphs["eval"].outputs)
    return tuple(name for name in names if name not in _SUMS)


class EvaluationGraph:
    """One session of eval.onnx, or of the graph that is opened for it, for adapters of any rank and alpha.

    Attributes:
        placement: where it runs, as it was read back; None on the CPU.

    Raises:
        InvalidBundle: if ONNX Runtime cannot load the graph.
        ProviderUnavailable: if the provider cannot take it.
        PlacementRefused: if the provider runs less of it than the profile demands.
    """

    def __init__(self, bundle: Bundle, choice: ProviderChoice, graph: str = "eval") -> None:
        self._bundle = bundle
        self._session, self.placement = open_graph(bundle, graph, choice)
        self._others = other_outputs(bundle.manifest)

    def forward(self, adapter: Adapter) -> Forward:
        """Return what evaluates an adapter.

        Raises:
            AdapterMismatch: it does not fit; every mismatch is listed.
        """
        fed = inference_inputs(adapter, self._bundle)

        def run(batch: Batch, _weight: float) -> Evaluated:
            loss, weight, *values = run_session(self._session, (*_SUMS, *self._others), {**batch, **fed})
            return Evaluated(float(loss), float(weight), dict(zip(self._others, values, strict=True)))

        return run


def evaluate_with(
    forward: Forward,
    encoded: EncodedSet,
    task: Task,
    source: BatchSource,
    batch_size: int,
    ticks: Ticks = lambda *_: None,
) -> Evaluation:
    """Evaluate on examples.

    Args:
        forward: evaluates one batch.
        encoded: the examples; those without a label enter no figure.
        task: of the bundle.
        source: makes the batches.
        batch_size: examples in a batch; a static graph's own takes its place.
        ticks: told after each batch.

    Raises:
        InvalidData: no example has a label.
    """
    started = time.perf_counter()
    encoded.check_labelled("to evaluate with")
    batches = plan_evaluation(encoded.lengths, source.batch_size(batch_size))
    meter = task.meter(encoded)
    loss, weight = 0.0, 0.0
    for done, indices in enumerate(batches, start=1):
        if expected := encoded.weight(indices):
            batch = source.batch("eval", encoded, indices)
            evaluated = forward(batch, expected)
            loss, weight = loss + evaluated.loss, weight + evaluated.weight
            meter.add(indices, batch, evaluated.outputs)
        ticks(done, len(batches))
    mean = loss / weight
    return Evaluation(
        examples=len(encoded.examples),
        labels=round(weight),
        loss=mean,
        figures=meter.figures(mean),
        seconds=time.perf_counter() - started,
    )


def evaluate(
    bundle: Bundle,
    encoded: EncodedSet,
    profile: HardwareProfile,
    adapter: Adapter | None = None,
    *,
    batch_size: int | None = None,
    on_missing: OnMissing | None = None,
    cache: CacheSettings = _DEFAULT_CACHE,
    ticks: Ticks = lambda *_: None,
) -> Evaluation:
    """Evaluate an adapter, or the bundle's initial one.

    Args:
        bundle: the bundle.
        encoded: examples with labels.
        profile: of the device.
        adapter: of any rank and alpha.
        batch_size: examples in a batch; the profile's if None.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
        cache: settings of the activation cache, where the bundle is split.
        ticks: told after each batch.

    Raises:
        AdapterMismatch: the adapter does not fit the bundle; every mismatch is listed.
        InvalidData: no example has a label.
        ProviderUnavailable: the profile's provider is not there.
        InvalidBundle: the bundle has no prefix for the profile's accelerator.
        PlacementRefused: the provider runs less of a graph than the profile demands.
    """
    choice = choose_for(bundle, profile, on_missing=on_missing)
    with open_batches(bundle, profile, choice, cache) as source:
        graph = EvaluationGraph(bundle, source.choice, source.graphs["eval"])
        forward = graph.forward(adapter or initial_adapter(bundle))
        size = batch_size or profile.training.batch_size
        return evaluate_with(forward, encoded, open_task(bundle), source, size, ticks)
