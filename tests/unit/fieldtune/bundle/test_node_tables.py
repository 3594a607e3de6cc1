"""Node tables: what is written is read, faults are named with their place, and sizes are worked out."""

import dataclasses
import json

import pytest

from builders import Graph, node, node_table, table_text
from fieldtune.bundle.node_tables import (
    UNKNOWN_DTYPE,
    UNKNOWN_SHAPE,
    UNKNOWN_SIZE,
    Value,
    parse_node_table,
    product,
    read_node_table,
    tensor_bytes,
)
from fieldtune.errors import CorruptFile, FieldtuneError, InvalidBundle, UnsupportedFormat
from mutations import faults_unnamed, outcome, replaced, unknown_unnamed, without

BODY = {"operators": ["Add"], "captured": ["x"]}


def full_table():
    """A graph of everything that a table can say."""
    graph = Graph()
    x = graph.quantize(graph.input("x", "batch", 3, 8, 8))
    found = graph.conv(x, "stem")
    half = graph.constant("half", value=0.5, bytes_=4)
    graph.constant("least", value=-float("inf"), bytes_=4)
    graph.add("Loop", [found, half, ""], ("batch*sequence", UNKNOWN_SIZE), name="loop", body=BODY, modes=["a"])
    channels = graph.weight("w", 2, 3, scale=(0.5, 0.25), axis=0)
    return graph.table(graph.add("Mystery", [channels], UNKNOWN_SHAPE, dtype=UNKNOWN_DTYPE), name="prefix")


TABLE = full_table()
TREE = json.loads(table_text(TABLE))
VALUES = [("values", name) for name in TREE["values"]]
ATTRIBUTES = [("nodes", index, "attributes") for index in range(len(TREE["nodes"]))]
OPTIONAL = {"opset", "bytes", "value", "axis", "quantization", "captured"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prefix.nodes.json"


def read(data):
    return parse_node_table(json.dumps(data), "prefix.nodes.json")


def message(data, error=InvalidBundle):
    with pytest.raises(error) as caught:
        read(data)
    return str(caught.value)


def test_what_is_written_is_read(path):
    path.write_text(table_text(TABLE), encoding="utf-8")
    # JSON has lists where attributes had tuples, and nothing else differs.
    assert read_node_table(path) == TABLE
    assert parse_node_table(table_text(TABLE).encode(), path) == TABLE


def test_a_loop_reads_what_its_body_captures():
    (loop,) = [one for one in read(TREE).nodes if one.op == "Loop"]
    assert loop.subgraphs == (BODY,)
    assert loop.reads == ("stem.out", "half", "x")


def test_the_least_that_a_table_says_and_format_1_0():
    data = json.loads(table_text(node_table()))
    assert read(data) == node_table()
    earlier = {key: value for key, value in data.items() if key != "opset"} | {"format_version": "1.0"}
    assert read(earlier) == node_table(opset=None)


def test_every_key_that_is_missing_or_of_another_kind_is_named_with_its_place():
    # Names and dtypes of values are in their constants' own words, and an attribute is whatever ONNX has.
    found = faults_unnamed(
        TREE,
        read,
        InvalidBundle,
        "prefix.nodes.json",
        free=ATTRIBUTES,
        names=[("values",)],
        optional=OPTIONAL,
        mixed=["shape", "macs"],
    )
    constants = [path for path in VALUES if "value" in TREE["values"][path[1]]]
    assert {path for path, change, _ in found if change not in (True, 7, 0.5, "x")} == set()
    assert {path[:-1] for path, *_ in found} <= set(constants)


def test_every_unknown_key_is_named_with_its_place():
    assert unknown_unnamed(TREE, read, InvalidBundle, "prefix.nodes.json", free=ATTRIBUTES, names=[("values",)]) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("opset",), 0, "'opset' is 0; expected at least 1"),
        (("values", "x", "shape"), [-1], "values: x: 'shape' holds -1; expected sizes of at least 0, and names"),
        (("values", "x", "bytes"), -1, "values: x: 'bytes' is -1; expected at least 0"),
        (("values", "half", "value"), [0.5], "values: half: 'value' is a list; expected a string, a number"),
        (
            ("nodes", 0, "macs"),
            [1.5],
            "nodes[0]: 'macs' holds a number (1.5); expected an integer, in a list of integers and names",
        ),
        (("nodes", 0, "quantization", "zero_point"), [0.5], "'zero_point' holds a number (0.5); expected an integer"),
        (("nodes", 0, "quantization", "scale"), [float("nan")], "'scale' holds a number (nan); expected a finite"),
        (("nodes", 4, "attributes", "body", "operators"), "Add", "nodes[4]: attributes: body: 'operators' is a string"),
        (("nodes", 4, "attributes", "body", "captured"), [1], "'captured' holds an integer (1); expected a string"),
        (("nodes", 0, "inputs"), ["nothing"], "'values' lacks 1 that are used, as 'nothing'"),
        (("inputs",), ["x", "other"], "'values' lacks 1 that are used, as 'other'"),
    ],
)
def test_what_is_out_of_range_or_described_nowhere_is_refused(path, value, says):
    assert TREE["nodes"][4]["op"] == "Loop"
    found = message(replaced(TREE, path, value))
    assert found.startswith("prefix.nodes.json: ")
    assert says in found


def test_a_value_that_is_missing_is_named():
    assert "'values' lacks 1 that are used, as 'half'" in message(without(TREE, ("values", "half")))


def test_other_formats():
    later = replaced(replaced(TREE, ("format_version",), "1.9"), ("nodes", 0, "novelty"), 1)
    with pytest.warns(UserWarning, match=r"format 1\.9 is later than 1\.1"):
        assert read(later) == TABLE
    found = message(replaced(TREE, ("format_version",), "2.0"), UnsupportedFormat)
    assert found == "prefix.nodes.json: format_version is 2.0; this fieldtune reads 1.x: update fieldtune"
    found = message(replaced(TREE, ("format_version",), "0.9"), UnsupportedFormat)
    assert found == "prefix.nodes.json: format_version is 0.9; this fieldtune reads 1.x: build it again"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no UTF-8", "too deep"])
def test_what_is_no_json(path, text):
    path.write_bytes(text)
    with pytest.raises(CorruptFile, match=r"prefix\.nodes\.json: not JSON \(.*\); copy or build the bundle again"):
        read_node_table(path)


def test_what_cannot_be_read(path):
    with pytest.raises(CorruptFile, match=r"prefix\.nodes\.json: cannot be read \(No such file"):
        read_node_table(path)
    path.mkdir()
    with pytest.raises(CorruptFile, match=r"prefix\.nodes\.json: cannot be read \(Is a directory\)"):
        read_node_table(path)


def test_a_text_cut_anywhere_is_refused():
    text = table_text(node_table(node("Relu", [], [], name="a")))
    for end in range(0, len(text), 7):
        found = outcome(lambda end=end: parse_node_table(text[:end], "t.json"), FieldtuneError)
        assert found.startswith("t.json: not JSON (")


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((), 1),
        ((2, 3), 6),
        (("batch", 3), 15),
        (("batch*sequence",), 35),
        (("sequence + 1", 2), 16),
        (("(sequence - 1)//2",), 3),
        ((0, "batch"), 0),
    ],
)
def test_products_of_sizes_and_expressions(dims, expected):
    assert product(dims, {"batch": 5, "sequence": 7}) == expected


@pytest.mark.parametrize(
    "dim", [UNKNOWN_SIZE, "*", "batch**2", "f(batch)", "batch.real", "1.5", "batch//0", "(" * 500, "-" * 90_000 + "1"],
    ids=["unknown", "star", "power", "call", "attribute", "float", "zero", "unclosed", "too deep"],
)  # fmt: skip
def test_what_is_no_expression_of_sizes(dim):
    with pytest.raises(ValueError, match="is not an expression of sizes"):
        product((dim,), {"batch": 5})


def test_a_dimension_without_a_size():
    with pytest.raises(KeyError, match="rank"):
        product(("rank",), {"batch": 5})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", 40), ("int8", 10), ("bool", 10), ("bfloat16", 20), ("float8_e4m3fn", 10), ("int4", 5), ("uint2", 3)],
)
def test_bytes_of_tensors(dtype, expected):
    assert tensor_bytes(Value(dtype=dtype, shape=("batch", 2)), {"batch": 5}) == expected


def test_a_dtype_without_a_width():
    with pytest.raises(ValueError, match="a unknown has no size that is known"):
        tensor_bytes(Value(dtype=UNKNOWN_DTYPE, shape=(1,)))


def test_multiply_accumulates_are_0_where_there_are_none():
    (conv,) = [one for one in TABLE.nodes if one.op == "Conv"]
    assert TABLE.macs(conv, {"batch": 2}) == 2 * 16 * 8 * 8 * 3 * 3 * 3
    assert TABLE.macs(dataclasses.replace(conv, macs=())) == 0
