"""Round halves up: a quantized graph that computes on the CPU as a DPU rounds.

1. What a QuantizeLinear with one constant scale quantizes is raised by 2⁻¹⁶ of the scale first, so that a half comes
   above the middle. ONNX Runtime, which rounds halves to even, then rounds it up.
2. Nothing else changes: with scales that are powers of two, what is quantized are multiples of 2⁻¹⁶ of the scale (a DPU
   shifts by 16 bits at most), and what is below a half stays below it or, by one such multiple, comes up to it.
"""

import numpy as np
import onnx_ir as ir

_RAISE = 2.0**-16


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
        tensor = ir.tensor((step.reshape(()) * _RAISE).astype(np.float32), name=name)
        half = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()), const_value=tensor)
        model.graph.register_initializer(half)
        raised = ir.node("Add", [source, half], name=f"{name}.Add")
        output = raised.outputs[0]
        output.name, output.type, output.shape = f"{name}.raised", source.type, source.shape
        model.graph.insert_before(node, raised)
        node.replace_input_with(0, output)
        count += 1
    return count
