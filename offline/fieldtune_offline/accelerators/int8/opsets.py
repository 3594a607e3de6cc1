"""The opset that a compiler takes: operators that later opsets changed, in the earlier form."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from fieldtune.errors import UnsupportedModel
from fieldtune.hardware import Accelerator

_AXES_MOVED_AT_18 = (
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp",
)  # fmt: skip
"""Opset 18 made the axes of these an input; before, they are an attribute."""
_GREW_AT_18 = ("LpPool", "Pad", "Resize", "ScatterElements", "ScatterND", "Split")
"""Opset 18 gave these an input or attributes more, and the reductions of scattering max and min; nothing else of them
changed (ONNX, Changelog.md, version 18)."""
_NEW_REDUCTIONS = ("max", "min")


def set_opset(model: ir.Model, accelerator: Accelerator) -> None:
    """Bring a model's opset into the range that an accelerator's compiler takes.

    Raises:
        UnsupportedModel: an operator that means something else there.
    """
    opset = model.opset_imports[""]
    low, high = accelerator.opset_min or opset, accelerator.opset_max or opset
    wanted = min(max(opset, low), high)
    if wanted == opset:
        return
    for node in model.graph.all_nodes():
        if node.domain:
            continue
        if wanted < 18 <= opset and node.op_type in _AXES_MOVED_AT_18:
            _axes_as_attribute(node)
        elif _only_grew(node, opset, wanted):
            _drop_attributes(node, wanted)
        elif _defined_at(node.op_type, opset) != _defined_at(node.op_type, wanted):
            raise UnsupportedModel(
                f"{node.op_type} {node.name}: opset {opset} defines it otherwise than opset {wanted}, the nearest that "
                f"{accelerator.target} takes"
            )
    model.opset_imports[""] = wanted


def as_global_pooling(model: ir.Model) -> None:
    """Turn means over height and width into GlobalAveragePool, which accelerators know."""
    graph = model.graph
    for node in list(graph):
        data = node.inputs[0] if node.inputs else None
        if node.op_type != "ReduceMean" or data is None or data.shape is None or len(data.shape) != 4:
            continue
        if sorted(axis % 4 for axis in _axes(node)) != [2, 3]:
            continue
        result = node.outputs[0]
        new = [ir.node("GlobalAveragePool", [data])]
        if not node.attributes.get_int("keepdims", 1):
            new.append(ir.node("Flatten", new[0].outputs, {"axis": 1}))
            new[0].outputs[0].name = f"{result.name}.pooled"
        last = new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [last])
        last.name = result.name


def _axes(node: ir.Node) -> Sequence[int]:
    """Return a reduction's constant axes; none where it has no or unknown ones."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = node.inputs[1].const_value
        return [] if constant is None else [int(axis) for axis in constant.numpy()]
    return node.attributes.get_ints("axes", ())


def _axes_as_attribute(node: ir.Node) -> None:
    axes = _axes(node)
    if len(node.inputs) > 1:
        if not axes:
            raise UnsupportedModel(f"{node.op_type} {node.name}: its axes are not constant")
        node.attributes["axes"] = ir.AttrInt64s("axes", np.asarray(axes).tolist())
        node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)


def _only_grew(node: ir.Node, opset: int, wanted: int) -> bool:
    """Whether a node means the same at an earlier opset, because it uses nothing that the later one added."""
    if node.op_type not in _GREW_AT_18:
        return False
    later, earlier = (onnx.defs.get_schema(node.op_type, version) for version in (opset, wanted))
    if (later.since_version, earlier.since_version) != (18, _defined_at(node.op_type, 17)):
        return False
    if any(node.inputs[len(earlier.inputs) :]) or node.attributes.get_string("reduction") in _NEW_REDUCTIONS:
        return False
    return all(
        _is_default(attribute, later.attributes[name])
        for name, attribute in node.attributes.items()
        if name not in earlier.attributes
    )


def _is_default(attribute: ir.Attr, definition: onnx.defs.OpSchema.Attribute) -> bool:
    default = definition.default_value
    return bool(default.name) and ir.serde.deserialize_attribute(default).value == attribute.value


def _drop_attributes(node: ir.Node, opset: int) -> None:
    """Leave out what an opset does not know: inputs that are not there, and attributes that say what holds anyway."""
    known = onnx.defs.get_schema(node.op_type, opset)
    node.resize_inputs(min(len(node.inputs), len(known.inputs)))
    for name in [name for name in node.attributes if name not in known.attributes]:
        del node.attributes[name]


def _defined_at(op: str, opset: int) -> int:
    return int(onnx.defs.get_schema(op, opset).since_version)
