"""QuantizeLinear and DequantizeLinear put into a graph by ONNX Runtime's quantizer, at positions known already."""

from typing import Any

import numpy as np
import onnx_ir as ir

from fieldtune.hardware import Accelerator
from fieldtune.placement import DEQUANTIZE, QUANTIZE
from fieldtune_offline.accelerators.int8.positions import Positions, scale
from fieldtune_offline.accelerators.int8.scheme import Scheme


def insert_quantization(model: ir.Model, scheme: Scheme, positions: Positions, accelerator: Accelerator) -> ir.Model:
    """Return the graph with every tensor of the scheme quantized.

    The quantizer is told of each tensor what to do, and left no choice of operators: its own would quantize between a
    convolution and its activation.
    """
    from onnxruntime.quantization import QDQQuantizer, QuantType, TensorData

    kind = QuantType.QUInt8 if accelerator.activation_type == "uint8" else QuantType.QInt8

    def parameters(name: str, kind: QuantType, zero_point: int) -> list[dict[str, Any]]:
        dtype = np.uint8 if kind == QuantType.QUInt8 else np.int8
        return [{"quant_type": kind, "scale": scale(positions[name]), "zero_point": np.array(zero_point, dtype)}]

    overrides = {name: parameters(name, kind, accelerator.zero_point) for name in scheme.activations}
    overrides |= {name: parameters(name, QuantType.QInt8, 0) for name in scheme.weights}
    proto = ir.to_proto(model)
    # Shapes are all there: without this mark the quantizer would infer them again.
    proto.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    unused = TensorData(lowest=np.float32(0), highest=np.float32(0))
    quantizer = QDQQuantizer(
        proto,
        per_channel=False,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=kind,
        tensors_range=dict.fromkeys(scheme.activations, unused),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=[],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "TensorQuantOverrides": overrides,
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    )
    for name in scheme.activations:
        quantizer.quantize_activation_tensor(name)
    for name in scheme.weights:
        quantizer.quantize_weight_tensor(name)
    for bias in scheme.biases:
        quantizer.quantize_bias_tensor(bias.node, bias.bias, bias.data, bias.weight)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ir.Model = ir.from_proto(quantizer.model.model)
    quantized.metadata_props.clear()
    quantized.producer_name, quantized.producer_version = "fieldtune", None
    _keep_floats(quantized, scheme)
    return quantized


def _keep_floats(model: ir.Model, scheme: Scheme) -> None:
    """Let the CPU read what it computes itself as it is, where the quantizer gave it what the accelerator reads."""
    readers: dict[str, set[str]] = {}
    for name, reader in scheme.kept:
        readers.setdefault(name, set()).add(reader)
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == QUANTIZE else None
        if source is None or str(source.name) not in readers:
            continue
        dequantize = next(iter(node.outputs[0].uses())).node
        assert dequantize.op_type == DEQUANTIZE
        for use in tuple(dequantize.outputs[0].uses()):
            if use.node.name in readers[str(source.name)]:
                use.node.replace_input_with(use.idx, source)
