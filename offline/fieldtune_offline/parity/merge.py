"""Parity of a merge: the merged graphs compute what the bundle's do with the adapter fed, or there is no merge.

One session is open at a time and its weights are not packed a second time, so that a merge needs little more memory
than the model.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldtune.bundle import (
    PREFIX_GRAPH,
    SUFFIX_GRAPHS,
    Bundle,
    FloatArray,
    GraphSpec,
    Manifest,
    MergeCost,
    MergeParitySpec,
    forward_graphs,
)
from fieldtune.errors import ParityError, listed
from fieldtune_offline.parity.noise import noise_batches
from fieldtune_offline.parity.whole import open_on_cpu, relative_difference
from fieldtune_offline.tasks.interface import Arrays

MERGE_TOLERANCE = 1e-4
"""Relative to the loss, and to the largest element of an output. Folding rounds each weight once; 1e-6 to 1e-5 is what
the models of this project's tests differ by."""
_TIMES = 4
"""What rounding activations to integers may do to a merged bundle, of what it does to the one before."""
_EVALUATION = "eval"
_TOKENS_AFTER_A_PAST = 2

Exchange = tuple[Arrays, Arrays]
"""What a graph was fed, and what it answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    """What the graphs of a bundle answer.

    Attributes:
        evaluation: what eval.onnx answers to each batch.
        served: graph → for each batch, what it was fed and what it answered.
    """

    evaluation: list[Arrays]
    served: Mapping[str, list[list[Exchange]]]


def check_merge(
    source: Bundle, adapter: Mapping[str, FloatArray], merged: Path, manifest: Manifest
) -> tuple[MergeParitySpec, ...]:
    """Compare eval.onnx and what serves of both on noise, a language model's with a past, too.

    Where the merged bundle is cut, prefix and suffixes together are compared with its whole graphs.

    Args:
        source: the bundle that takes the adapter as inputs.
        adapter: by input name.
        merged: folder with the merged graphs.
        manifest: of the merged bundle.

    Raises:
        ParityError: a difference above MERGE_TOLERANCE; every one is listed.
    """
    batches = noise_batches(source.root, source.manifest)
    expected = _answers(source, batches, adapter)
    found = _answers_to(Bundle(merged, manifest), batches, expected, {})
    whole = {_EVALUATION: found.evaluation} | {
        graph: [answer for exchanges in served for _, answer in exchanges] for graph, served in found.served.items()
    }
    cut = _cut_differences(merged, manifest, batches, whole) if manifest.split else [{} for _ in batches]
    faults: list[str] = []
    records = []
    for number, batch in enumerate(batches):
        rows, length = _shape(batch)
        loss, inference = _differences(found, expected, number)
        differences = {**loss, **inference, **cut[number]}
        faults += _faults(batch, differences, MERGE_TOLERANCE)
        worst = max(inference.values())
        records.append(
            MergeParitySpec(batch=rows, sequence=length, loss_relative=max(loss.values()), inference_relative=worst)
        )
    if faults:
        raise ParityError(
            "the merged graphs do not compute what the bundle's do with the adapter; nothing was written"
            f"{listed(faults)}"
        )
    return tuple(records)


def merge_cost(
    source: Bundle, adapter: Mapping[str, FloatArray], merged: Path, manifest: Manifest
) -> tuple[MergeCost, ...]:
    """Return what merging into a packed base changes, on the noise that merges are compared on; as ``check_merge``."""
    batches = noise_batches(source.root, source.manifest)
    expected = _answers(source, batches, adapter)
    found = _answers_to(Bundle(merged, manifest), batches, expected, {})
    costs = []
    for number, batch in enumerate(batches):
        rows, length = _shape(batch)
        squares, largest = 0.0, 0.0
        for graph, exchanges in expected.served.items():
            for (feeds, before), (_, after) in zip(exchanges[number], found.served[graph][number], strict=True):
                for name in before:
                    seen = _seen(name, before[name], feeds)
                    squares += float(np.square(after[name][seen] - before[name][seen], dtype=np.float64).sum())
                    largest += float(np.square(before[name][seen], dtype=np.float64).sum())
        costs.append(
            MergeCost(
                batch=rows,
                sequence=length,
                loss=_loss(expected.evaluation[number]),
                merged_loss=_loss(found.evaluation[number]),
                outputs_relative=float(np.sqrt(squares / (largest or 1.0))),
            )
        )
    return tuple(costs)


def check_packed(
    source: tuple[Bundle, Bundle], adapter: Mapping[str, FloatArray], merged: tuple[Bundle, Bundle]
) -> None:
    """Check that a merged packed bundle computes with its matrices as the one that it was merged from does.

    Each is compared with itself with unpacked matrices. Products of integers differ from those by what rounding
    activations does, the merged ones by no more than a few times as much as those that the build compared with torch.

    Args:
        source: the bundle that takes the adapter as inputs, packed and with unpacked matrices.
        adapter: by input name.
        merged: the merged one, likewise.

    Raises:
        ParityError: a larger difference; every one is listed.
    """
    batches = noise_batches(source[0].root, source[0].manifest)
    faults: list[str] = []
    allowed, found = (
        [_differences(answers, unpacked, number) for number in range(len(batches))]
        for packed, plain, fed in ((*source, adapter), (*merged, {}))
        for unpacked in [_answers(plain, batches, fed)]
        for answers in [_answers_to(packed, batches, unpacked, fed)]
    )
    for batch, before, after in zip(batches, allowed, found, strict=True):
        rounding = max(max(part.values()) for part in before)
        for part in after:
            faults += _faults(batch, part, max(MERGE_TOLERANCE, _TIMES * rounding))
    if faults:
        raise ParityError(
            "the merged graphs do not compute what their packed matrices stand for; nothing was written"
            f"{listed(faults)}"
        )


def _answers(bundle: Bundle, batches: Sequence[Arrays], adapter: Mapping[str, FloatArray]) -> _Answers:
    served = {
        graph: _serve(bundle, graph, batches, adapter)
        for graph in forward_graphs(bundle.manifest)
        if graph != _EVALUATION
    }
    return _Answers(_ask_all(bundle.graph_path(_EVALUATION), batches, adapter), served)


def _answers_to(
    bundle: Bundle, batches: Sequence[Arrays], others: _Answers, adapter: Mapping[str, FloatArray]
) -> _Answers:
    """Return what a bundle answers where it is fed what another one was, a past included."""
    served: dict[str, list[list[Exchange]]] = {}
    for graph, asked in others.served.items():
        feeds = [given for exchanges in asked for given, _ in exchanges]
        left = iter(_ask_all(bundle.graph_path(graph), feeds, adapter))
        served[graph] = [[(given, next(left)) for given, _ in exchanges] for exchanges in asked]
    return _Answers(_ask_all(bundle.graph_path(_EVALUATION), batches, adapter), served)


def _differences(found: _Answers, expected: _Answers, number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return how far the loss and what is served of one batch are from what is expected."""
    loss = relative_difference(found.evaluation[number]["loss_sum"], expected.evaluation[number]["loss_sum"])
    inference: dict[str, float] = {}
    for graph, exchanges in expected.served.items():
        for (feeds, before), (_, after) in zip(exchanges[number], found.served[graph][number], strict=True):
            inference |= _inference_differences(graph, feeds, before, after)
    return {"eval.onnx's loss_sum": loss}, inference


def _faults(batch: Arrays, differences: Mapping[str, float], tolerance: float) -> list[str]:
    rows, length = _shape(batch)
    return [
        f"batch {rows}, sequence {length}: {what} differs by {difference:.1e}"
        for what, difference in differences.items()
        if not difference <= tolerance
    ]


def _shape(batch: Arrays) -> tuple[int, int]:
    if "input_ids" in batch:
        rows, length = batch["input_ids"].shape
        return rows, length
    return len(batch["labels"]), 0


def _loss(answers: Arrays) -> float:
    return float(answers["loss_sum"]) / (float(answers["weight"]) or 1.0)


def _inference_differences(graph: str, feeds: Arrays, expected: Arrays, answers: Arrays) -> dict[str, float]:
    past = feeds["attention_mask"].shape[1] - feeds["input_ids"].shape[1] if "attention_mask" in feeds else 0
    seen = {name: _seen(name, array, feeds) for name, array in expected.items()}
    return {
        f"{graph}.onnx's {name} after {past} tokens": relative_difference(answers[name][rows], expected[name][rows])
        for name, rows in seen.items()
    }


def _cut_differences(
    merged: Path, manifest: Manifest, batches: Sequence[Arrays], whole: Mapping[str, Sequence[Arrays]]
) -> list[dict[str, float]]:
    """Return how far prefix and suffix together are from what the whole graphs answered, for each batch."""
    graphs = {name: merged / graph.path for name, graph in manifest.graphs.items()}
    wanted = {spec.name for spec in manifest.graphs[PREFIX_GRAPH].inputs}
    inputs = [{name: array for name, array in batch.items() if name in wanted} for batch in batches]
    boundary = _ask_all(graphs[PREFIX_GRAPH], inputs, {})
    differences: list[dict[str, float]] = [{} for _ in batches]
    for graph, answers in whole.items():
        suffix = SUFFIX_GRAPHS[graph]
        behind = {spec.name for spec in manifest.graphs[suffix].inputs}
        feeds = [
            {name: array for name, array in {**batch, **given}.items() if name in behind}
            for batch, given in zip(batches, boundary, strict=True)
        ]
        cut = _ask_all(graphs[suffix], feeds, {})
        for number, (answer, expected) in enumerate(zip(cut, answers, strict=True)):
            for name in expected:
                difference = relative_difference(answer[name], expected[name])
                differences[number][f"{suffix}.onnx's {name}"] = difference
    return differences


def _ask_all(path: Path, batches: Sequence[Arrays], adapter: Mapping[str, FloatArray]) -> list[Arrays]:
    session = open_on_cpu(path, lean=True)
    return [_ask(session, batch, adapter) for batch in batches]


def _serve(
    source: Bundle, graph: str, batches: Sequence[Arrays], adapter: Mapping[str, FloatArray]
) -> list[list[Exchange]]:
    session = open_on_cpu(source.graph_path(graph), lean=True)
    return [_serve_one(session, source.manifest.graphs[graph], batch, adapter) for batch in batches]


def _ask(session: Any, feeds: Mapping[str, Any], adapter: Mapping[str, FloatArray]) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {**feeds, **adapter}), strict=True))


def _serve_one(session: Any, graph: GraphSpec, batch: Arrays, adapter: Mapping[str, FloatArray]) -> list[Exchange]:
    """Feed what serves the inputs of a batch and, where it keeps a cache, two tokens more after them."""
    feeds = {spec.name: batch[spec.name] for spec in graph.inputs if spec.name in batch}
    pasts = [spec for spec in graph.inputs if spec.name not in batch and spec.name != "position_ids"]
    if not pasts:
        return [(feeds, _ask(session, feeds, adapter))]
    rows, length = feeds["input_ids"].shape
    for spec in pasts:
        heads, size = spec.shape[1], spec.shape[3]
        assert isinstance(heads, int)
        assert isinstance(size, int)
        feeds[spec.name] = np.zeros((rows, heads, 0, size), np.float32)
    feeds["position_ids"] = _positions(rows, 0, length)
    first = _ask(session, feeds, adapter)
    more = {
        "input_ids": feeds["input_ids"][:, :_TOKENS_AFTER_A_PAST],
        "attention_mask": np.pad(feeds["attention_mask"], ((0, 0), (0, _TOKENS_AFTER_A_PAST)), constant_values=1),
        "position_ids": _positions(rows, length, _TOKENS_AFTER_A_PAST),
        **{spec.name: first[spec.name.replace("past_key_values.", "present.")] for spec in pasts},
    }
    return [(feeds, first), (more, _ask(session, more, adapter))]


def _positions(rows: int, start: int, count: int) -> Any:
    return np.tile(np.arange(start, start + count, dtype=np.int64), (rows, 1))


def _seen(name: str, output: Any, feeds: Arrays) -> Any:
    # What a padding position would say next is nobody's business, and masks leave it undefined.
    if name != "logits" or output.ndim != 3:
        return ...
    return feeds["attention_mask"][:, -output.shape[1] :] != 0
