"""Rules on the graph as a whole and on operators that end the compiler's process."""

from collections.abc import Iterator
from typing import NamedTuple

from fieldtune.bundle import Value, tensor_bytes
from fieldtune.placement.flow import DEQUANTIZE, OUTPUT, QUANTIZE
from fieldtune.placement.violations import Finding, Subject, called

CONV_ATTRIBUTES = ("strides", "pads", "dilations", "kernel_shape", "group")
_THETA, _GRADIENT = "theta", "grad_sum"


def dynamic_shape(subject: Subject) -> Iterator[Finding]:
    """Name inputs without a static shape, and nodes that make one out of static shapes; not all that follows."""
    values = subject.table.values
    dynamic = {name for name, value in values.items() if not _is_static(value)}
    for name in subject.table.inputs:
        if name in dynamic:
            yield Finding(name, "static shapes", _shape(values[name]))
    for node in subject.table.nodes:
        made = [name for name in node.outputs if name in dynamic]
        if made and dynamic.isdisjoint(node.reads):
            yield Finding(called(node), "static shapes", _shape(values[made[0]]))


def batch(subject: Subject) -> Iterator[Finding]:
    """Name inputs whose first dimension is another number than the profile's batch."""
    wanted = subject.accelerator.batch
    for name in subject.table.inputs:
        shape = subject.table.values[name].shape
        if name not in subject.table.initializers and shape and isinstance(shape[0], int) and shape[0] != wanted:
            yield Finding(name, f"batch {wanted}", f"batch {shape[0]}")


def opset_range(subject: Subject) -> Iterator[Finding]:
    """Name the graph if its opset is older or later than the compiler takes, or not known."""
    opset, oldest, latest = subject.table.opset, subject.accelerator.opset_min, subject.accelerator.opset_max
    if oldest is None and latest is None:
        return
    limit = f"opset {oldest or 1} to {latest}" if latest else f"opset {oldest} or later"
    if opset is None:
        yield Finding(subject.table.graph, limit, "a node table that does not state it")
    elif opset < (oldest or opset) or opset > (latest or opset):
        yield Finding(subject.table.graph, limit, f"opset {opset}")


def training_graph(subject: Subject) -> Iterator[Finding]:
    """Name a graph that takes theta, puts out a gradient or is called after it."""
    table = subject.table
    signs = [f"input {_THETA}"] * (_THETA in table.inputs) + [f"output {_GRADIENT}"] * (_GRADIENT in table.outputs)
    if subject.training or signs or "gradient" in table.graph:
        yield Finding(table.graph, "the frozen forward part", ", ".join(signs) or "a training graph")


def memory(subject: Subject) -> Iterator[Finding]:
    """Name the node at which weights and the tensors that are alive together need more than there is.

    The limit is the accelerator's own memory, else what the main memory leaves for the program, else all of it. Inside
    a partition tensors are stored quantized; between an operator and its quantization nothing is stored. Not modelled:
    instructions, the compiler's layout, and that on-chip memory may hold a tensor.
    """
    limit = (
        subject.accelerator.memory_bytes
        or subject.profile.memory.available_for_app_bytes
        or subject.profile.memory.total_bytes
    )
    need = memory_need(subject)
    if limit is None or need is None:
        return
    total = need.weight_bytes + need.activation_bytes
    if total > limit:
        actual = f"{total:,} bytes: {need.weight_bytes:,} of weights and {need.activation_bytes:,} of activations"
        yield Finding(need.node, f"{limit:,} bytes", actual)


class MemoryNeed(NamedTuple):
    """Weights of a graph, and the most bytes of activations that are alive at one of its nodes."""

    weight_bytes: int
    activation_bytes: int
    node: str


def memory_need(subject: Subject) -> MemoryNeed | None:
    """Return what a graph holds on the accelerator, or None where shapes are not static."""
    values = subject.table.values
    if not all(_is_static(value) for value in values.values()):
        return None
    weights = sum(values[name].constant_bytes or 0 for name in subject.table.initializers)
    return MemoryNeed(weights, *_peak(subject))


def implicit_conv_attributes(subject: Subject) -> Iterator[Finding]:
    """Name convolutions that leave an attribute to its default."""
    for node in subject.table.nodes:
        missing = [name for name in CONV_ATTRIBUTES if name not in node.attributes]
        if node.op == "Conv" and missing:
            yield Finding(called(node), f"{', '.join(CONV_ATTRIBUTES)} written out", f"no {', '.join(missing)}")


def data_dependent_if(subject: Subject) -> Iterator[Finding]:
    """Name every If whose condition is computed from the inputs, and those inside of branches and loops."""
    for node in subject.table.nodes:
        if node.op == "If" and node.inputs[0] not in subject.flow.constants:
            yield Finding(called(node), "a constant condition", f"condition {node.inputs[0]!r} depends on the inputs")
        if any("If" in subgraph["operators"] for subgraph in node.subgraphs):
            yield Finding(called(node), "a constant condition", "an If inside of it")


def lstm(subject: Subject) -> Iterator[Finding]:
    """Name every LSTM, in branches and loops, too.

    No crash is known of GRU, RNN, Loop and Scan (a minimal Loop was seen to compile): they run on the CPU.
    """
    for node in subject.table.nodes:
        inside = [operator for subgraph in node.subgraphs for operator in subgraph["operators"]]
        if "LSTM" in (node.op, *inside):
            yield Finding(called(node), "no LSTM", "an LSTM")


def bfloat16(subject: Subject) -> Iterator[Finding]:
    """Name inputs, constants and nodes with bfloat16 tensors."""
    for name, value in subject.table.values.items():
        if value.dtype == "bfloat16":
            node = subject.flow.producing(name)
            yield Finding(name if node is None else called(node), "float32, quantized", f"bfloat16 tensor {name!r}")


def _is_static(value: Value) -> bool:
    return all(isinstance(dim, int) for dim in value.shape)


def _shape(value: Value) -> str:
    return f"shape ({', '.join(map(str, value.shape))})"


def _peak(subject: Subject) -> tuple[int, str]:
    """Return the most bytes of activations that are alive at one node, and the node's name."""
    flow, nodes = subject.flow, subject.table.nodes
    born: dict[int, int] = {}  # index of a node → bytes that it writes
    dead: dict[int, int] = {}  # index of a node → bytes that nobody needs behind it
    for name, value in subject.table.values.items():
        if name in flow.constants or _is_fused(subject, name):
            continue
        first = flow.producer.get(name, 0)
        readers = list(flow.readers(name))
        last = len(nodes) - 1 if OUTPUT in readers else max(readers, default=first)
        size = tensor_bytes(value)
        born[first] = born.get(first, 0) + size
        dead[last] = dead.get(last, 0) + size
    alive, peak, at = 0, 0, subject.table.graph
    for index, node in enumerate(nodes):
        alive += born.get(index, 0)
        if alive > peak:
            peak, at = alive, called(node)
        alive -= dead.get(index, 0)
    return peak, at


def _is_fused(subject: Subject, name: str) -> bool:
    """Whether a value is never stored: it is dequantized for the accelerator, or only computed there on its way."""
    flow = subject.flow
    index = flow.producer.get(name)
    if index not in subject.placed:
        return False
    consumers = flow.consumers.get(name, ())
    kind = subject.table.nodes[index].op
    return kind == DEQUANTIZE or (kind != QUANTIZE and all(reader in subject.placed for reader in consumers))
