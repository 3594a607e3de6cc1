"""Which buffers a run takes and gives back, as ONNX Runtime's allocation planner assigns them to tensors.

The rules are the planner's (``allocation_planner.cc``); which kernels write in place was measured on chains of each
operator with ONNX Runtime 1.16.3 and 1.31.1:

1. A view (Reshape, Squeeze, …) is its input's buffer.
2. A kernel that can write in place takes its input's buffer, if that has the same shape and nothing reads it any more.
3. Any other tensor takes the newest free buffer of a tensor of the same shape and size of elements; dimensions are
   compared as they are written. A buffer that is taken again later is not given back in between.
4. A graph's outputs have buffers of their own, held to the end of the run; its inputs and weights take none.
5. A product that unpacks its matrix whole takes a buffer for it, for as long as it runs.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from fieldtune.bundle import NodeTable, Sizes, tensor_bytes
from fieldtune.preflight.packed_products import unpacked_inside
from fieldtune.preflight.sessions.runtime_graph import Step

_FLOAT_BYTES = 4
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_IN_PLACE = frozenset(
    {
        "Cast",
        "Clip",
        "Elu",
        "HardSigmoid",
        "LeakyRelu",
        "LogSoftmax",
        "Relu",
        "ScatterElements",
        "Sigmoid",
        "Softmax",
        "Tanh",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BufferEvent:
    """A buffer that is taken or given back.

    Attributes:
        buffer: named for the first tensor in it.
        size_bytes: of the buffer.
        taken: or given back.
        planned: whether the memory pattern has a place for it: not for a graph's outputs, nor for what a kernel takes
            for itself.
    """

    buffer: str
    size_bytes: int
    taken: bool
    planned: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BufferPlan:
    """What happens to memory in one run.

    Attributes:
        events: in the order in which they happen.
        unknown_tensors: whose size the node table does not tell; they are not among the events.
    """

    events: tuple[BufferEvent, ...]
    unknown_tensors: int

    @property
    def peak_bytes(self) -> int:
        """The most that is held at once."""
        held = most = 0
        for event in self.events:
            held += event.size_bytes if event.taken else -event.size_bytes
            most = max(most, held)
        return most


def plan_buffers(table: NodeTable, steps: Sequence[Step], sizes: Sizes, *, prepacking: bool = True) -> BufferPlan:
    """Return the buffers of one run.

    Args:
        table: of the graph.
        steps: in the order of the run.
        sizes: of every symbolic dimension.
        prepacking: whether kernels keep packed copies of weights.
    """
    unpacked = {
        node.outputs[0]: _FLOAT_BYTES * weights
        for node in table.nodes
        if (weights := unpacked_inside(table, node, prepacking=prepacking))
    }
    first, last = _lifetimes(table, steps)
    known = {buffer: size for buffer in first if (size := _bytes(table, buffer, sizes)) is not None}
    outputs = set(table.outputs)
    taken: list[list[str]] = [[] for _ in steps]
    given: list[list[str]] = [[] for _ in steps]
    for buffer in known:
        taken[first[buffer]].append(buffer)
        given[-1 if buffer in outputs else last[buffer]].append(buffer)
    events: list[BufferEvent] = []
    for step, took, gave in zip(steps, taken, given, strict=True):
        events += [_event(buffer, known[buffer], taken=True, planned=buffer not in outputs) for buffer in took]
        own = unpacked.get(step.outputs[0], 0)
        events += [_event("unpacked", own, taken=taking, planned=False) for taking in (True, False) if own]
        events += [_event(buffer, known[buffer], taken=False, planned=buffer not in outputs) for buffer in gave]
    return BufferPlan(events=tuple(events), unknown_tensors=len(first) - len(known))


def _event(buffer: str, size_bytes: int, *, taken: bool, planned: bool) -> BufferEvent:
    return BufferEvent(buffer=buffer, size_bytes=size_bytes, taken=taken, planned=planned)


def _lifetimes(table: NodeTable, steps: Sequence[Step]) -> tuple[dict[str, int], dict[str, int]]:
    """Return of every buffer the step that takes it, and the last one that uses it."""
    outputs = set(table.outputs)
    fixed = [*dict.fromkeys((*table.inputs, *table.initializers))]
    # Each tensor counts once for what writes it, so that one that nothing reads is free after its step.
    uses = Counter([*fixed, *table.outputs, *(name for step in steps for name in (*step.reads, *step.outputs) if name)])
    buffers = {name: name for name in fixed}
    free: list[str] = []
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for position, name in enumerate(step.outputs):
            if not name:
                continue
            buffer = None if name in outputs else _reused(table, step, position, buffers, uses, free)
            if buffer is None:
                first[name] = number
                buffer = name
            else:
                uses[buffer] += uses[name]
            buffers[name] = buffer
        for name in (*step.reads, *step.outputs):
            if name:
                # What is folded away when the graph is loaded is read without having been written.
                buffer = buffers.setdefault(name, name)
                uses[buffer] -= 1
                last[buffer] = number
                if not uses[buffer] and buffer in first:
                    free.insert(0, buffer)
    return first, last


def _reused(
    table: NodeTable, step: Step, position: int, buffers: dict[str, str], uses: Counter[str], free: list[str]
) -> str | None:
    """Return the buffer that an output takes over, and take it out of the free ones, if there is one."""
    name = step.outputs[position]
    if position == 0 and step.op in _VIEWS:
        return buffers.get(step.inputs[0])
    if position == 0 and step.op in _IN_PLACE:
        buffer = buffers.get(step.inputs[0], "")
        if uses[buffer] == 1 and _alike(table, step.inputs[0], name):
            return buffer
    if table.values[name].shape:  # the planner shares no scalars
        for index, buffer in enumerate(free):
            if _alike(table, buffer, name):
                return free.pop(index)
    return None


def _alike(table: NodeTable, one: str, other: str) -> bool:
    left, right = table.values[one], table.values[other]
    if left.shape != right.shape:
        return False
    return left.dtype == right.dtype or _element(table, one) == _element(table, other)


def _element(table: NodeTable, name: str) -> int | None:
    try:
        return tensor_bytes(dataclasses.replace(table.values[name], shape=()))
    except ValueError:
        return None


def _bytes(table: NodeTable, name: str, sizes: Sizes) -> int | None:
    try:
        return tensor_bytes(table.values[name], sizes)
    except (KeyError, ValueError):
        return None
