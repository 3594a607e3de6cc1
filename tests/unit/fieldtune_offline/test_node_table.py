"""Any graph becomes a node table that the device can read, however odd the graph is."""

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from fieldtune.bundle.node_tables import UNKNOWN_SHAPE, product, read_node_table, tensor_bytes
from fieldtune_offline.node_table import node_table

FLOAT, BFLOAT16, BOOL = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.BOOL


@pytest.fixture
def table_of(tmp_path):
    def write(nodes, inputs, outputs, initializers=()):
        graph = helper.make_graph(nodes, "odd", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        path = tmp_path / "odd.nodes.json"
        path.write_text(node_table(ir.serde.deserialize_model(model)), encoding="utf-8")
        return read_node_table(path)

    return write


def info(name, dtype=FLOAT, shape=(1, 4)):
    return helper.make_tensor_value_info(name, dtype, shape)


def test_values_that_nothing_is_known_of(table_of):
    table = table_of([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape=(None, 4))], [info("z")])
    assert table.nodes[0].name == ""
    assert table.values["x"].shape == ("?", 4)
    assert table.values["y"].shape == UNKNOWN_SHAPE
    assert table.values["y"].dtype == "unknown"
    for value in table.values.values():
        with pytest.raises(ValueError, match=r"'\?' is not an expression|a unknown has no size"):
            tensor_bytes(value)
    with pytest.raises(ValueError, match=r"'\*' is not an expression of sizes"):
        product(table.values["y"].shape)


def test_outputs_that_are_left_out_have_no_value(table_of):
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=4)
    shapes = {"x": (2, 1, 4), "w": (1, 16, 4), "r": (1, 16, 4)}
    table = table_of([lstm], [info(name, shape=shape) for name, shape in shapes.items()], [info("h", shape=(1, 1, 4))])
    assert table.nodes[0].outputs == ("", "h")
    assert set(table.values) == {"x", "w", "r", "h"}


def test_a_branch_says_what_it_computes_and_what_it_reads_around_it(table_of):
    def branch(op):
        inner = info("inner")
        nodes = [helper.make_node(op, ["y", "own"], ["sum"]), helper.make_node("Relu", ["sum"], ["inner"])]
        return helper.make_graph(nodes, op, [], [inner], [helper.make_tensor("own", FLOAT, (1,), [1.0])])

    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch("Add"), else_branch=branch("Mul")),
    ]
    node = table_of(nodes, [info("x"), info("c", BOOL, ())], [info("z")]).nodes[1]
    assert node.attributes["then_branch"] == {"operators": ["Add", "Relu"], "captured": ["y"]}
    assert node.attributes["else_branch"] == {"operators": ["Mul", "Relu"], "captured": ["y"]}
    assert node.reads == ("c", "y")


def test_bfloat16_constants_and_attributes_that_are_not_numbers(table_of):
    nodes = [
        helper.make_node("Add", ["x", "one"], ["y"]),
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", FLOAT, (2,), [1.0, 2.0])),
        helper.make_node("Optional", [], ["o"], type=helper.make_tensor_type_proto(FLOAT, (1,))),
    ]
    one = helper.make_tensor("one", BFLOAT16, (1,), [1.5])
    table = table_of(nodes, [info("x", BFLOAT16)], [info("y", BFLOAT16)], [one])
    assert table.values["one"].dtype == "bfloat16"
    assert table.values["one"].value == 1.5
    assert tensor_bytes(table.values["x"]) == 8
    assert table.nodes[1].attributes == {"value": {"dtype": "FLOAT", "shape": [2]}}
    assert table.nodes[2].attributes == {"type": "TYPE_PROTO"}


def test_a_product_that_leaves_its_attributes_out_is_counted(table_of):
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"])
    table = table_of([gemm], [info("x", shape=(3, 4)), info("w", shape=(4, 5))], [info("y", shape=(3, 5))])
    assert table.macs(table.nodes[0]) == 3 * 5 * 4


@pytest.mark.parametrize(
    ("dtype", "expected"), [(TensorProto.INT4, 6), (TensorProto.INT8, 12), (BOOL, 12), (TensorProto.DOUBLE, 96)]
)
def test_bytes_of_a_tensor(table_of, dtype, expected):
    table = table_of([helper.make_node("Identity", ["x"], ["y"])], [info("x", dtype, (3, "n"))], [info("y")])
    assert tensor_bytes(table.values["x"], {"n": 4}) == expected
    with pytest.raises(KeyError):
        tensor_bytes(table.values["x"])


@pytest.mark.parametrize("op", ["MatMulNBits", "MatMulBnb4"])
def test_a_product_with_packed_codes_is_counted_by_the_columns_that_it_states(table_of, op):
    codes = info("codes", TensorProto.UINT8, (160,))
    made = helper.make_node(op, ["x", "codes", "scales"], ["y"], domain="com.microsoft", K=64, N=5, block_size=64)
    table = table_of([made], [info("x", shape=(3, 64)), codes, info("scales", shape=(5,))], [info("y", shape=(3, 5))])
    assert table.macs(table.nodes[0]) == 3 * 5 * 64


def test_a_product_of_integers_is_counted(table_of):
    inputs = [info("x", TensorProto.UINT8, (3, 4)), info("w", TensorProto.INT8, (4, 5)), info("one", shape=())]
    made = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "one"], ["y"], domain="com.microsoft")
    assert table_of([made], inputs, [info("y", shape=(3, 5))]).nodes[0].macs == (3, 5, 4)


@pytest.mark.parametrize("fed", [False, True])
def test_scales_that_can_be_fed_are_no_parameters_of_the_table(table_of, fed):
    dequantize = helper.make_node("DequantizeLinear", ["codes", "scales"], ["y"], axis=0)
    scales = helper.make_tensor("scales", FLOAT, (2,), [0.5, 0.25])
    inputs = [info("codes", TensorProto.UINT8, (2, 3)), *([info("scales", shape=(2,))] if fed else [])]
    (node,) = table_of([dequantize], inputs, [info("y", shape=(2, 3))], [scales]).nodes
    assert (node.quantization is None) == fed


SCAN = """<ir_version: 8, opset_import: ["": 18]> g (float[n] sum, float[t,r,5] x, float[5,7] w) => (float[t,r,5] y) {
  after, y = Scan <num_scan_inputs = 1,
    body = b (float[n] total, float[rows,5] row) => (float[n] kept, float[rows,5] back) {
    kept = Identity (total)
    wide = MatMul (row, w)
    back = Gemm <transB = 1> (wide, w)
  }> (sum, x)
}"""


def test_products_in_a_loop_count_in_each_round(tmp_path):
    model = ir.from_onnx_text(SCAN)
    for value, shape in zip(model.graph.inputs, (["n"], ["n//3", "k+1", 5], [5, 7]), strict=True):
        value.shape = ir.Shape(shape)
    body = model.graph[0].attributes["body"].as_graph()
    for node, columns in zip(list(body)[1:], (7, 5), strict=True):
        node.outputs[0].shape = ir.Shape(["rows", columns])
    path = tmp_path / "loop.nodes.json"
    path.write_text(node_table(model), encoding="utf-8")
    table = read_node_table(path)
    (scan,) = table.nodes
    # Four rounds of three rows, 5 · 7 in each of two products.
    assert table.macs(scan, {"n": 13, "k": 2}) == 4 * 3 * 35 * 2
    assert scan.reads == ("sum", "x", "w")
