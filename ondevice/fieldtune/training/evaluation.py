"""Evaluation: loss and accuracy of an adapter on examples."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.activations.settings import CacheSettings
from fieldtune.adapters.adapter import Adapter
from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import initial_adapter
from fieldtune.bundle.manifest import IGNORE_INDEX, Manifest
from fieldtune.bundle.opening import Bundle
from fieldtune.data.batches import Batch, labelled_count, plan_evaluation
from fieldtune.data.examples import CLASSIFICATIONS, EncodedSet
from fieldtune.errors import InvalidData
from fieldtune.hardware import HardwareProfile
from fieldtune.hardware.on_missing import OnMissing
from fieldtune.placement.opening import open_graph
from fieldtune.placement.targets import choose_for
from fieldtune.runtime.providers import ProviderChoice
from fieldtune.runtime.session import run_session
from fieldtune.training.batch_source import BatchSource, open_batches

_DEFAULT_CACHE = CacheSettings()

Ticks: TypeAlias = Callable[[int, int], None]
"""Is told how many batches are done, and of how many."""


class Evaluated(NamedTuple):
    """What one batch gives: its summed loss, and its logits (classification) or its count of right tokens."""

    loss: float
    found: npt.NDArray[Any]


Forward: TypeAlias = Callable[[Batch], Evaluated]
"""Evaluates one adapter on a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an adapter reaches on examples; figures of the other task are None.

    Attributes:
        examples: how many there were.
        labels: how many labels the figures are means of: classes, or tokens that the model had to write.
        loss: mean cross-entropy of a label, in nats.
        accuracy: classification: part of the examples whose class is the likeliest one.
        majority_accuracy: classification: what naming the examples' most frequent class every time would reach.
        token_accuracy: generation: part of the labelled tokens that are the likeliest after what precedes them.
        perplexity: generation: e to the loss.
        seconds: wall-clock time, an emulation of the prefix included.
    """

    examples: int
    labels: int
    loss: float
    accuracy: float | None
    majority_accuracy: float | None
    token_accuracy: float | None
    perplexity: float | None
    seconds: float


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
        self._outputs = ("loss_sum", "logits" if _classifies(bundle.manifest) else "correct")

    def forward(self, adapter: Adapter) -> Forward:
        """Return what evaluates an adapter.

        Raises:
            AdapterMismatch: it does not fit; every mismatch is listed.
        """
        fed = inference_inputs(adapter, self._bundle)

        def run(batch: Batch) -> Evaluated:
            loss, found = run_session(self._session, self._outputs, {**batch, **fed})
            return Evaluated(float(loss), found)

        return run


def evaluate_with(
    forward: Forward,
    encoded: EncodedSet,
    manifest: Manifest,
    source: BatchSource,
    batch_size: int,
    ticks: Ticks = lambda *_: None,
) -> Evaluation:
    """Evaluate on examples.

    Args:
        forward: evaluates one batch.
        encoded: the examples; those without a label enter no figure.
        manifest: of the bundle.
        source: makes the batches.
        batch_size: examples in a batch; a static graph's own takes its place.
        ticks: told after each batch.

    Raises:
        InvalidData: no example has a label.
    """
    started = time.perf_counter()
    classify = _classifies(manifest)
    batches = plan_evaluation(encoded.lengths, source.batch_size(batch_size))
    loss, labels, correct = 0.0, 0, 0
    for done, indices in enumerate(batches, start=1):
        batch = source.batch("eval", encoded, indices)
        if count := labelled_count(batch):
            batch_loss, found = forward(batch)
            loss += batch_loss
            labels += count
            correct += _right_classes(found, batch["labels"]) if classify else int(found)
        ticks(done, len(batches))
    if not labels:
        raise InvalidData(f"none of the {len(encoded.examples)} example(s) has a label to evaluate with")
    mean = loss / labels
    return Evaluation(
        examples=len(encoded.examples),
        labels=labels,
        loss=mean,
        accuracy=correct / labels if classify else None,
        majority_accuracy=_majority(encoded) if classify else None,
        token_accuracy=None if classify else correct / labels,
        # Above e^700 a float ends; a mean loss of 700 nats a token is a broken model, not a perplexity.
        perplexity=None if classify else math.exp(mean) if mean < 700 else math.inf,
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
    with open_batches(bundle, profile, choice, cache, on_missing=on_missing) as source:
        graph = EvaluationGraph(bundle, source.choice, source.graphs["eval"])
        forward = graph.forward(adapter or initial_adapter(bundle))
        size = batch_size or profile.training.batch_size
        return evaluate_with(forward, encoded, bundle.manifest, source, size, ticks)


def _classifies(manifest: Manifest) -> bool:
    return manifest.task.name in CLASSIFICATIONS


def _right_classes(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> int:
    counted = labels != IGNORE_INDEX
    return int(np.count_nonzero(logits.argmax(axis=-1)[counted] == labels[counted]))


def _majority(encoded: EncodedSet) -> float:
    classes = np.array([int(example.labels) for example in encoded.examples])
    counts = np.unique(classes[classes != IGNORE_INDEX], return_counts=True)[1]
    return float(counts.max() / counts.sum())
