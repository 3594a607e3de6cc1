"""A split bundle with quantized prefixes for accelerators, written by hand: the prefix has the boundary, not the sense,
of the split that it is added to."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from builders import graph_spec, target_spec
from fieldtune.bundle.manifest import MANIFEST_NAME
from fieldtune.bundle.opening import file_spec, open_bundle
from fieldtune.hardware import HardwareProfile
from fieldtune_offline.node_table import node_table

POSITION = 5
"""Minus log2 of the scale of every activation; weights have 7."""


class _Graph:
    """Nodes and initializers of a quantized graph, as they come."""

    def __init__(self, seed: int, zero_point: int, activation: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._zero, self._kind = zero_point, activation

    def constant(self, name: str, value: np.generic | np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_0"], name=name, **attributes))
        return f"{name}_0"

    def quantized(self, value: str, name: str, position: int = POSITION) -> str:
        scale = self.constant(f"{name}_scale", np.float32(2.0**-position))
        zero = self.constant(f"{name}_zero", np.dtype(self._kind).type(self._zero))
        found = self.node("QuantizeLinear", [value, scale, zero], f"{name}_quantize")
        return self.node("DequantizeLinear", [found, scale, zero], f"{name}_dequantize")

    def conv(self, value: str, channels: tuple[int, int], stride: int, name: str) -> str:
        into, out = channels
        integers = self._rng.integers(-40, 41, (out, into, 3, 3)).astype(np.int8)
        constants = [
            self.constant(f"{name}_weight", integers),
            self.constant(f"{name}_weight_scale", np.float32(2.0**-7)),
            self.constant(f"{name}_weight_zero", np.int8(0)),
        ]
        weight = self.node("DequantizeLinear", constants, f"{name}_weight_dequantize")
        attributes = {"strides": [stride] * 2, "pads": [1] * 4, "dilations": [1, 1], "kernel_shape": [3, 3], "group": 1}
        found = self.node("Conv", [value, weight], name, **attributes)
        return self.quantized(self.node("Relu", [found], f"{name}_relu"), name)


def quantized_prefix(
    profile: HardwareProfile, *, softmax: bool = False, unknown: bool = False, seed: int = 0
) -> onnx.ModelProto:
    """Return a graph of three convolutions, pixel_values (batch, 3, 32, 32) → boundary_0 (batch, 16, 4, 4).

    Behind the first one, if asked for, is a Softmax, or an operator of machine learning that few compilers know.
    """
    accelerator = profile.accelerator
    assert accelerator is not None
    graph = _Graph(seed, accelerator.zero_point, accelerator.activation_type)
    value = graph.quantized("pixel_values", "input")
    value = graph.conv(value, (3, 8), 2, "conv_a")
    if softmax:
        value = graph.quantized(graph.node("Softmax", [value], "softmax", axis=1), "softmax")
    if unknown:
        value = graph.node("Scaler", [value], "scaler", domain="ai.onnx.ml", scale=[1.0], offset=[0.0])
    value = graph.conv(value, (8, 16), 2, "conv_b")
    value = graph.conv(value, (16, 16), 2, "conv_c")
    graph.nodes[-1].output[0] = "boundary_0"
    made = helper.make_graph(
        graph.nodes,
        f"prefix_{profile.name}",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [accelerator.batch, 3, 32, 32])],
        [helper.make_tensor_value_info("boundary_0", TensorProto.FLOAT, [accelerator.batch, 16, 4, 4])],
        graph.initializers,
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def add_prefixes(source: Path, out: Path, *profiles: HardwareProfile, **changes: bool) -> Path:
    """Copy a split bundle and add a ``quantized_prefix`` for the accelerator of each profile; return the copy."""
    shutil.copytree(source, out)
    manifest = open_bundle(out).manifest
    float_prefix = manifest.graphs["prefix"]
    graphs, targets, files = dict(manifest.graphs), dict(manifest.targets), dict(manifest.files)
    for profile in profiles:
        accelerator = profile.accelerator
        assert accelerator is not None
        model = quantized_prefix(profile, **changes)
        name = f"prefix_{profile.name}"
        written = {
            f"graphs/{name}.onnx": model.SerializeToString(),
            f"graphs/{name}.nodes.json": node_table(ir.serde.deserialize_model(model)).encode(),
            f"graphs/{name}.reference": b"",
        }
        for path, content in written.items():
            (out / path).write_bytes(content)
            files[path] = file_spec(out / path)
        *_, reference = written
        batch = accelerator.batch

        def static(specs, batch=batch):
            return tuple(dataclasses.replace(spec, shape=(batch, *spec.shape[1:])) for spec in specs)

        graphs[name] = graph_spec(
            name, opset=17, inputs=static(float_prefix.inputs), outputs=static(float_prefix.outputs)
        )
        targets[profile.name] = target_spec(profile, reference=reference)
    changed = dataclasses.replace(manifest, graphs=graphs, targets=targets, files=files)
    (out / MANIFEST_NAME).write_text(changed.to_json(), encoding="utf-8")
    return out


def divided_prefix(batch: int) -> onnx.ModelProto:
    """Return a float32 graph, pixel_values (batch, 3, 32, 32) → boundary_0 (batch, 16, 4, 4).

    A convolution, a Binarizer, which few providers take, and a product with an addition, which ONNX Runtime fuses.
    """
    random = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    attributes = {"strides": [8, 8], "pads": [0] * 4, "dilations": [1, 1], "kernel_shape": [8, 8], "group": 1}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "conv_weight"], ["conv_0"], name="conv", **attributes),
        helper.make_node("Binarizer", ["conv_0"], ["signs"], name="signs", domain="ai.onnx.ml", threshold=0.0),
        helper.make_node("Reshape", ["signs", "rows"], ["row_0"], name="rows"),
        helper.make_node("MatMul", ["row_0", "weight"], ["product_0"], name="product"),
        helper.make_node("Add", ["product_0", "bias"], ["sum_0"], name="sum"),
        helper.make_node("Reshape", ["sum_0", "maps"], ["boundary_0"], name="maps"),
    ]
    made = helper.make_graph(
        nodes,
        "prefix",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("boundary_0", TensorProto.FLOAT, [batch, 16, 4, 4])],
        [
            constant("conv_weight", 16, 3, 8, 8),
            constant("weight", 16, 16),
            constant("bias", 16),
            numpy_helper.from_array(np.array([batch * 16, 16], np.int64), "rows"),
            numpy_helper.from_array(np.array([batch, 16, 4, 4], np.int64), "maps"),
        ],
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def replace_prefix(source: Path, out: Path, batch: int) -> Path:
    """Copy a split bundle, with ``divided_prefix`` as its float32 prefix; return the copy."""
    shutil.copytree(source, out)
    manifest, model = open_bundle(out).manifest, divided_prefix(batch)
    spec = manifest.graphs["prefix"]
    (out / spec.path).write_bytes(model.SerializeToString())
    (out / spec.nodes).write_text(node_table(ir.serde.deserialize_model(model)), encoding="utf-8")
    static = {
        side: tuple(dataclasses.replace(one, shape=(batch, *one.shape[1:])) for one in getattr(spec, side))
        for side in ("inputs", "outputs")
    }
    changed = dataclasses.replace(
        manifest,
        graphs={**manifest.graphs, "prefix": dataclasses.replace(spec, **static)},
        files={**manifest.files, **{path: file_spec(out / path) for path in (spec.path, spec.nodes)}},
    )
    (out / MANIFEST_NAME).write_text(changed.to_json(), encoding="utf-8")
    return out
