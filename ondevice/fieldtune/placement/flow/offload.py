"""Which operators an accelerator's compiler takes, and why it leaves the others to the CPU.

For DPUs this is what the vendor's user guide says of each operator (AMD, UG1414 3.5, "Operators Supported by PyTorch":
convolutions of one group or of one for each channel, pooling, products that become convolutions, activations fused
behind them, elementwise addition and multiplication, concatenation, padding, resizing, slicing, reshaping; all else is
"assigned to the CPU"), and that only what is quantized is taken. NPUs publish no such list: of theirs it is known that
subgraphs around convolutions, pooling and products are taken, and lone activations, norms, softmax and data movement
are not (measured by others, README of onnxsim 0.8.1), so the same list holds for them.

Not modelled: operators whose sizes exceed a limit are given to the CPU by the real compiler; here ``rules`` refuses
them, so that nobody finds out on the device. Transpositions that a compiler can turn into a reshape are left to the
CPU.
"""

from collections.abc import Mapping

from fieldtune.bundle import Node
from fieldtune.hardware import Accelerator
from fieldtune.placement.flow.dataflow import ACTIVATIONS, VIEWS, Dataflow

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
HEAVY = (*CONVOLUTIONS, *PRODUCTS, *POOLS)
"""What a partition forms around."""
ELEMENTWISE = ("Add", "Mul")
MOVES = ("Concat", "Pad", "Slice", "Resize")
"""Change where numbers are, and by interpolation at most what they are."""
_BESIDE_HEAVY = (*ACTIVATIONS, *ELEMENTWISE, *MOVES, *VIEWS)
_RESIZES = ("nearest", "linear")
_CALLED = {"dpu": "a DPU", "npu": "an NPU"}

LONELY = "no convolution, pool or matrix product near it"


def data_inputs(node: Node) -> tuple[str, ...]:
    """Return the inputs of an operator that hold numbers to compute on, not sizes, bounds or axes."""
    if node.op in (*CONVOLUTIONS, *PRODUCTS, *ELEMENTWISE, "Concat"):
        return tuple(name for name in node.inputs if name)
    return node.inputs[:1]


def left_to_cpu(flow: Dataflow, accelerator: Accelerator) -> Mapping[int, str]:
    """Return the operators that the compiler does not take whatever is beside them: index → reason, in their order."""
    reasons: dict[int, str] = {}
    for index, node in enumerate(flow.table.nodes):
        if not flow.is_operator(index):
            continue
        reason = left_by_kind(flow, node, accelerator) or _by_quantization(flow, node, reasons)
        if reason:
            reasons[index] = reason
    return reasons


def is_depthwise(flow: Dataflow, node: Node) -> bool:
    """Whether a convolution has one group for each input channel, which another part of a DPU computes."""
    group = node.attributes.get("group", 1)
    weight = flow.shape(node.inputs[1])
    return group > 1 and (weight[1] == 1 if node.op == "Conv" else weight[0] == group)


def left_by_kind(flow: Dataflow, node: Node, accelerator: Accelerator) -> str:
    """Return why the compiler leaves an operator, however it is quantized; "" where it does not."""
    called = _CALLED[accelerator.family]
    if node.op in CONVOLUTIONS:
        return _of_convolution(flow, node)
    if node.op in PRODUCTS:
        return "" if node.inputs[1] in flow.constants else "a product of two activations"
    if node.op == "Resize" and node.attributes.get("mode", "nearest") not in _RESIZES:
        return f"Resize with mode {node.attributes['mode']!r} runs on the CPU on {called}"
    return "" if node.op in (*HEAVY, *_BESIDE_HEAVY) else f"{node.op} runs on the CPU on {called}"


def _of_convolution(flow: Dataflow, node: Node) -> str:
    if node.inputs[1] not in flow.constants:
        return "its weights are computed"
    if len(flow.shape(node.inputs[1])) != 4:
        return "a convolution of other than two dimensions"
    if node.op == "ConvTranspose" and any(node.attributes.get("output_padding", ())):
        return "a transposed convolution with output_padding"
    group = node.attributes.get("group", 1)
    return "" if group == 1 or is_depthwise(flow, node) else f"a convolution in {group} groups of several channels"


def _by_quantization(flow: Dataflow, node: Node, reasons: Mapping[int, str]) -> str:
    """Return why an operator without weights is left: what it reads or writes is not quantized.

    Convolutions, pools and products are not judged here: without quantization they are refused.
    """
    if node.op in HEAVY:
        return ""
    for name in data_inputs(node):
        fused = node.op in (*ACTIVATIONS, *VIEWS) and _is_taken(flow, name, reasons)
        if flow.read_as(name) is None and not fused:
            return "what it reads is not quantized"
    return "what it writes is not quantized" if any(None in flow.written_as(name) for name in node.outputs) else ""


def _is_taken(flow: Dataflow, value: str, reasons: Mapping[int, str]) -> bool:
    """Whether a value comes straight from an operator that the compiler takes."""
    index = flow.producer.get(value)
    return index is not None and flow.is_operator(index) and index not in reasons
