"""A graph in the making: which of its nodes are needed, and what the manifest says of it."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import sympy
import torch

from builders import tensor_spec
from fieldtune.bundle.manifest import GraphSpec
from fieldtune_offline.graph import Graph, packed_weights
from fieldtune_offline.graph import tensor_spec as spec_of
from fieldtune_offline.lowering import PACKED, GraphBuilder
from fieldtune_offline.lowering.needed import needed_nodes

TEXT = """<ir_version: 8, opset_import: ["": 18]> g (float[n] x, float[n] z) => (float[n] y, float[m] s) {
    a = Relu(x) b = Tanh(a) c = Sigmoid(z) y = Add(a, c) s, t = Split<num_outputs=2>(b) d = Neg(t)
}"""


@pytest.fixture
def graph():
    return ir.from_proto(onnx.parser.parse_model(TEXT)).graph


def operators(nodes):
    return [node.op_type for node in nodes]


def test_only_what_an_output_needs_is_kept_in_its_order(graph):
    y, s = graph.outputs
    nodes = list(graph)
    assert operators(needed_nodes(nodes, [y])) == ["Relu", "Sigmoid", "Add"]
    assert operators(needed_nodes(nodes, [s])) == ["Relu", "Tanh", "Split"]
    assert operators(needed_nodes(nodes, [y, s])) == ["Relu", "Tanh", "Sigmoid", "Add", "Split"]


def test_what_is_given_is_not_computed(graph):
    y, _ = graph.outputs
    values = {value.name: value for node in graph for value in node.outputs}
    assert operators(needed_nodes(list(graph), [y], {id(values["a"])})) == ["Sigmoid", "Add"]
    assert needed_nodes(list(graph), [y], {id(y)}) == []
    assert needed_nodes(list(graph), [graph.inputs[0]]) == []


def test_sizes_that_vary_have_names_and_what_pads_is_said():
    build = GraphBuilder()
    batch = sympy.Symbol("batch")
    ids = build.source("input_ids", torch.int64, [batch, 2 * batch, 3])
    assert spec_of(ids) == tensor_spec("input_ids", "batch", "2*batch", 3, dtype="int64")
    assert spec_of(ids, {"input_ids": 7, "labels": -100}).pad == 7


def test_the_manifests_entry_names_the_files_and_the_oldest_runtime():
    x, y = tensor_spec("x", 3), tensor_spec("y", 3)
    codes = ir.Value(name="codes")
    codes.const_value = ir.tensor(np.zeros(4, np.uint8), name="codes")
    model = ir.Model(ir.Graph([], [], nodes=[], initializers=[codes], name="infer"), ir_version=8)
    made = Graph("infer", model, (x,), (y,), (tensor_spec("a", "rank"),), {}, ())
    expected = GraphSpec(
        path="graphs/infer.onnx",
        nodes="graphs/infer.nodes.json",
        opset=18,
        ir_version=8,
        min_ort="1.16.3",
        inputs=(x,),
        outputs=(y,),
        adapter_inputs=(tensor_spec("a", "rank"),),
        in_order=False,
    )
    assert made.spec("graphs") == expected
    codes.meta[PACKED] = True  # unpacked right before it is used
    assert packed_weights(model.graph) == [codes]
    assert made.spec("graphs") == dataclasses.replace(expected, in_order=True)
