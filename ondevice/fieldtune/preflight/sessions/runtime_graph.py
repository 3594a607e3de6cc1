"""The graph as ONNX Runtime's CPU provider runs it: what it folds and fuses, and in which order it runs the rest.

The rules are those that change how much memory a graph of ours takes; each was seen in the optimized graphs and the
profiles of ONNX Runtime 1.31:

1. What depends on weights alone is computed when the graph is loaded (every level but ``off``).
2. A BatchNormalization with constant statistics disappears into the convolution before it (every level but ``off``).
3. A Transpose of the last two axes disappears into the MatMul that reads it (``extended`` and ``all``); the product
   counts as a new node, behind all others.
4. Nodes run in depth-first order from the last output on: a node's inputs come right before it, those of its later
   producers first (``Graph::ReverseDFSFrom`` with ``NodeCompare`` in ONNX Runtime's sources).
5. In the order of the file (``GraphSpec.in_order``), of what has all its inputs the first in the file runs next, a
   ``Shape`` or ``Size`` before all others; what a fusion has made counts as last (``Graph::KahnsTopologicalSort`` with
   ``PriorityNodeCompare`` there).
"""

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from fieldtune.bundle import Node, NodeTable
from fieldtune.hardware import GraphOptimization

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_AT_ONCE = ("Shape", "Size")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One kernel of a run.

    Attributes:
        op: ONNX's name of the operator.
        inputs: names of values by position; "" for one that is left out.
        reads: every value that it needs.
        outputs: names of values.
        rewritten: whether a fusion has changed the weights that it reads, so that they are copies.
        place: among the nodes of the graph, which decides what runs first.
    """

    op: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    rewritten: bool
    place: int


def run_steps(table: NodeTable, optimization: GraphOptimization, *, in_order: bool = False) -> tuple[Step, ...]:
    """Return the kernels of one run, in the order in which ONNX Runtime's CPU provider runs them.

    Args:
        table: of the graph.
        optimization: how far the graph is rewritten when it is loaded.
        in_order: whether the session runs nodes in the order of the file.
    """
    steps = [_step(node, place) for place, node in enumerate(table.nodes)]
    if optimization != "off":
        steps = _without_constants(steps, table)
        steps = _without_normalizations(steps, table)
    if optimization in ("extended", "all"):
        steps = _without_transposes(steps, table)
    return _as_in_the_file(steps) if in_order else _ordered(steps)


def _step(node: Node, place: int) -> Step:
    return Step(op=node.op, inputs=node.inputs, reads=node.reads, outputs=node.outputs, rewritten=False, place=place)


def _without_constants(steps: Sequence[Step], table: NodeTable) -> list[Step]:
    # An initializer that is an input, too, can be fed, and is no constant.
    constants = set(table.initializers) - set(table.inputs)
    kept = []
    for step in steps:
        if constants.issuperset(step.reads):
            constants.update(step.outputs)
        else:
            kept.append(step)
    return kept


def _without_normalizations(steps: Sequence[Step], table: NodeTable) -> list[Step]:
    readers, constants = _readers(steps, table), set(table.initializers) - set(table.inputs)
    producers = {name: step for step in steps for name in step.outputs if name}
    replaced: dict[int, Step | None] = {}
    for step in steps:
        before = producers.get(step.inputs[0]) if step.op == "BatchNormalization" else None
        if before is None or before.op not in _CONVOLUTIONS or readers[step.inputs[0]] > 1:
            continue
        if before.inputs[1] in constants and constants.issuperset(step.inputs[1:]):
            replaced[before.place] = dataclasses.replace(before, outputs=step.outputs, rewritten=True)
            replaced[step.place] = None
    return [new for step in steps if (new := replaced.get(step.place, step))]


def _without_transposes(steps: Sequence[Step], table: NodeTable) -> list[Step]:
    swapped = {
        node.outputs[0]: node.inputs[0]
        for node in table.nodes
        if node.op == "Transpose" and _swaps_last(node.attributes.get("perm", ()))
    }
    fused, place = [], len(table.nodes)
    for step in steps:
        if step.op == "MatMul" and any(name in swapped for name in step.inputs):
            inputs = tuple(swapped.get(name, name) for name in step.inputs)
            fused.append(dataclasses.replace(step, op="FusedMatMul", inputs=inputs, reads=inputs, place=place))
            place += 1
        else:
            fused.append(step)
    readers = _readers(fused, table)
    return [step for step in fused if step.op != "Transpose" or readers[step.outputs[0]]]


def _swaps_last(perm: Sequence[int]) -> bool:
    size = len(perm)
    return size >= 2 and list(perm) == [*range(size - 2), size - 1, size - 2]


def _readers(steps: Sequence[Step], table: NodeTable) -> Mapping[str, int]:
    return Counter([name for step in steps for name in step.reads] + list(table.outputs))


def _ordered(steps: Sequence[Step]) -> tuple[Step, ...]:
    producers = {name: step for step in steps for name in step.outputs if name}
    before = {step.place: sorted({producers[name].place for name in step.reads if name in producers}) for step in steps}
    read = {place for places in before.values() for place in places}
    by_place = {step.place: step for step in steps}
    waiting = [(place, False) for place in sorted(set(by_place) - read)]
    seen: set[int] = set()
    ordered = []
    while waiting:
        place, done = waiting.pop()
        if done:
            ordered.append(by_place[place])
        elif place not in seen:
            seen.add(place)
            waiting += [(place, True), *((earlier, False) for earlier in before[place] if earlier not in seen)]
    return tuple(ordered)


def _as_in_the_file(steps: Sequence[Step]) -> tuple[Step, ...]:
    producers = {name: step.place for step in steps for name in step.outputs if name}
    by_place = {step.place: step for step in steps}
    waits = {step.place: {producers[name] for name in step.reads if name in producers} for step in steps}
    readers: dict[int, list[int]] = defaultdict(list)
    for place, before in waits.items():
        for producer in before:
            readers[producer].append(place)

    def rank(place: int) -> tuple[bool, int]:
        return by_place[place].op not in _AT_ONCE, place

    ready = [rank(place) for place, before in waits.items() if not before]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, place = heapq.heappop(ready)
        ordered.append(by_place[place])
        for reader in readers[place]:
            waits[reader].discard(place)
            if not waits[reader]:
                heapq.heappush(ready, rank(reader))
    return tuple(ordered)
