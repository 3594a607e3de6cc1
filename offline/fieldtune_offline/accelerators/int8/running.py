"""Graphs and single operators in memory, run by ONNX Runtime on the CPU."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

_LOG_ERRORS = 3


def open_model(model: ir.Model, outputs: Sequence[str] = (), *, fused: bool = True) -> ort.InferenceSession:
    """Open a graph.

    Args:
        model: the graph, which is left as it is.
        outputs: names of values that it shall give beside its own outputs.
        fused: whether operators between quantizations may be computed on integers, in ONNX Runtime's own way; without,
            each computes in float32 what stands in the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if outputs:
        model = model.clone()
        values = {value.name: value for node in model.graph for value in node.outputs}
        known = {value.name for value in (*model.graph.outputs, *model.graph.inputs)}
        model.graph.outputs.extend(values[name] for name in outputs if name not in known)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.onnx")
        ir.save(model, path)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Operator:
    """One operator of a graph, run by itself.

    Attributes:
        reads: names of the values that it is fed with.
        writes: names of the values that it gives.
    """

    def __init__(self, node: ir.Node, model: ir.Model, constants: Mapping[str, npt.NDArray[Any]]) -> None:
        """Open it.

        Args:
            node: the operator.
            model: that it is of.
            constants: name of an initializer → what to take in its place.
        """
        values: dict[str, ir.Value] = {}
        for value in node.inputs:
            if value is not None and value.name not in values:
                name = str(value.name)
                constant = ir.tensor(constants[name], name=name) if name in constants else value.const_value
                values[name] = ir.Value(name=name, type=value.type, shape=value.shape, const_value=constant)
        outputs = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in node.outputs]
        alone = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else values[str(value.name)] for value in node.inputs],
            node.attributes.values(),
            outputs=outputs,
        )
        fed = [value for value in values.values() if value.const_value is None]
        held = [value for value in values.values() if value.const_value is not None]
        given = [value for value in outputs if value.name]
        graph = ir.Graph(
            fed, given, nodes=[alone], initializers=held, opset_imports=model.opset_imports, name="operator"
        )
        self.reads = tuple(str(value.name) for value in fed)
        self.writes = tuple(str(value.name) for value in given)
        self._session = open_model(ir.Model(graph, ir_version=model.ir_version or 8))

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return what it gives, in the order of ``writes``."""
        arrays: list[npt.NDArray[Any]] = self._session.run(self.writes, {name: feeds[name] for name in self.reads})
        return arrays
