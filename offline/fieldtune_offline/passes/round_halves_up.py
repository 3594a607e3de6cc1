"""Round halves up: a quantized graph that computes on the CPU as a DPU rounds.

1. What a QuantizeLinear with one constant scale quantizes is raised by 2⁻¹⁷ of the scale first, so that a half comes
   above the middle. ONNX Runtime, which rounds halves to even, then rounds it up.
2. Nothing else changes: with scales that are powers of two, what convolutions, products, additions and moves give are
   multiples of 2⁻¹⁶ of the scale (a DPU shifts by 16 bits at most), so that what is below a half stays 2⁻¹⁷ below it.
3. The raise is exact where it decides: below 128 steps, which is as far as int8 and a zero point of 128 reach, a
   float32 has 17 bits behind the point. A zero point of 0 in uint8 reaches 256 steps, where it has 16: there the raise
   is 2⁻¹⁶, and right for shifts of 15 bits at most.
"""

import math

import numpy as np
import onnx_ir as ir

_FRACTION_BITS = 24
"""Of a float32 below 1; each doubling takes one of them."""


def round_halves_up(model: ir.Model) -> int:
    """Edit a graph in place, for ONNX Runtime's CPU provider alone; return how many quantizations there were."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear":
            continue
        source, scale = node.inputs[:2]
        if source is None or source.const_value is not None or scale is None or scale.const_value is None:
            continue
        step = scale.const_value.numpy()
        if step.size != 1:
            continue
        name = f"{node.name or node.outputs[0].name}.half"
        tensor = ir.tensor((step.reshape(()) * _raise(node)).astype(np.float32), name=name)
        half = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()), const_value=tensor)
        model.graph.register_initializer(half)
        raised = ir.node("Add", [source, half], name=f"{name}.Add")
        output = raised.outputs[0]
        output.name, output.type, output.shape = f"{name}.raised", source.type, source.shape
        model.graph.insert_before(node, raised)
        node.replace_input_with(0, output)
        count += 1
    return count


def _raise(node: ir.Node) -> float:
    """Return the least raise, in steps, that float32 holds up to the largest step that a QuantizeLinear gives."""
    zero = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
    point = np.zeros((), np.uint8) if zero is None else zero.numpy()
    reach = int(np.iinfo(point.dtype).max) - int(point.reshape(-1)[0])
    return 2.0 ** (math.ceil(math.log2(reach + 1)) - _FRACTION_BITS)
