"""A value is found again in another graph by what it computes, whatever it is called there."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fieldtune_offline.passes.fingerprints import fingerprints


@pytest.fixture
def digest():
    """The function from a graph's text, and initializers as arrays, to the digest of what it puts out."""

    def run(text, unbound=(), **initializers):
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
        for name, array in initializers.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
        graph = ir.from_proto(model).graph
        for name in unbound:
            graph.initializers[name].const_value = None
        return fingerprints(graph)[id(graph.outputs[0])]

    return run


GEMM = "g (float[n,2] x) => (float[n,2] y) {{ y = Gemm<transB={transposed}>(x, {weight}) }}"


def test_names_of_values_and_other_nodes_do_not_count(digest):
    plain = digest("g (float[n,2] x) => (float[n,2] y) { a = Relu(x) y = Sigmoid(a) }")
    assert plain == digest("h (float[m,2] x) => (float[m,2] z) { b = Tanh(x) c = Relu(x) z = Sigmoid(c) }")


def test_operators_their_order_attributes_and_inputs_count(digest):
    text = "g (float[n,2] x, float[n,2] z) => (float[n,2] y) {{ {} }}"
    kinds = [
        "y = Sub(x, z)", "y = Sub(z, x)", "y = Sub(x, x)", "y = Add(x, z)", "a = Relu(x) y = Sub(a, z)",
        "y = Softmax<axis=0>(x)", "y = Softmax<axis=1>(x)",
    ]  # fmt: skip
    assert len({digest(text.format(kind)) for kind in kinds}) == len(kinds)


def test_the_outputs_of_a_node_are_told_apart(digest):
    text = "g (float[4] x) => (float[2] {}) {{ a, b = Split<num_outputs=2>(x) }}"
    assert digest(text.format("a")) != digest(text.format("b"))


def test_a_constant_is_known_by_its_bytes(digest):
    def of(name, values):
        return digest(f"g (float[2] x) => (float[2] y) {{ y = Add(x, {name}) }}", **{name: values})

    assert of("c", [1, 2]) == of("other", [1, 2])
    assert of("c", [1, 2]) != of("c", [2, 1])
    assert of("c", [1, 2]) != of("c", [[1, 2]])


def test_a_weight_of_the_checkpoint_is_known_by_its_name_bound_or_not(digest):
    weight, other = np.eye(2), np.ones((2, 2))
    first = digest(GEMM.format(weight="w", transposed=1), unbound=("w",), w=weight)
    assert first == digest(GEMM.format(weight="w", transposed=1), unbound=("w",), w=other)
    assert first != digest(GEMM.format(weight="v", transposed=1), unbound=("v",), v=weight)
    assert first != digest(GEMM.format(weight="w", transposed=0), unbound=("w",), w=weight)
    assert first != digest(GEMM.format(weight="w", transposed=1), w=weight)
