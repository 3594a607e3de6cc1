"""NAME.nodes.json read: what a graph computes, for a device that has no onnx package.

Format 1.1: 1.0 and the opset, the values of constants of one element, and the parameters of quantization.
"""

import ast
import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fieldtune.bundle.manifest import Shape
from fieldtune.errors import CorruptFile, InvalidBundle
from fieldtune.files import Fields, check_version, parse_json

FORMAT_VERSION = "1.1"
UNKNOWN_SIZE = "?"
"""A dimension that nothing is known of."""
UNKNOWN_SHAPE: Shape = ("*",)
"""The shape of a tensor whose rank is unknown."""
UNKNOWN_DTYPE = "unknown"

Sizes: TypeAlias = Mapping[str, int]
"""Symbolic dimension → its size."""

_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
NO_SIZES: Sizes = {}
"""Of graphs whose shapes are all static."""
_AGAIN = "copy or build the bundle again"
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """The constant parameters of a QuantizeLinear or DequantizeLinear.

    Attributes:
        scale: one, or one for each index of an axis.
        zero_point: as many.
        axis: that they belong to; None where one scale holds for all of the tensor.
        dtype: of the quantized tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor of the graph.

    Attributes:
        dtype: NumPy's name of it.
        shape: sizes, and expressions of symbolic dimensions.
        constant_bytes: of an initializer; None for what is computed or fed.
        value: of an initializer of one element that is stored in the graph.
    """

    dtype: str
    shape: Shape
    constant_bytes: int | None = None
    value: str | float | bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operator of the graph.

    Attributes:
        name: of the node.
        op: ONNX's name of the operator.
        module: path of the torch module that it comes from; "" where that is not known.
        inputs: names of values; "" for an optional input that is left out.
        outputs: names of values.
        attributes: those that are written out; a graph's is ``{"operators": [...], "captured": [...]}``, the values
            around it that it reads.
        macs: factors of the number of multiply-accumulate operations; empty where there are none.
        quantization: of QuantizeLinear and DequantizeLinear with constant scales, else None.
    """

    name: str
    op: str
    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    macs: Shape
    quantization: Quantization | None

    @property
    def subgraphs(self) -> tuple[Mapping[str, Any], ...]:
        """Branches and loop bodies, as ``attributes`` has them."""
        return tuple(value for value in self.attributes.values() if isinstance(value, dict) and "operators" in value)

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value that it needs: its inputs, and what its branches or loop body read from around them."""
        captured = (name for subgraph in self.subgraphs for name in subgraph.get("captured", ()))
        return tuple(dict.fromkeys(name for name in (*self.inputs, *captured) if name))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NodeTable:
    """A graph without its weights.

    Attributes:
        graph: name of it.
        opset: of the default domain; None in tables of format 1.0.
        inputs: names, adapter inputs among them.
        outputs: names.
        initializers: names.
        values: inputs, initializers and every node's outputs, by name.
        nodes: in an order in which they can run.
    """

    graph: str
    opset: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]
    values: Mapping[str, Value]
    nodes: tuple[Node, ...]

    def macs(self, node: Node, sizes: Sizes = NO_SIZES) -> int:
        """Return a node's multiply-accumulate operations; 0 where it has none."""
        return product(node.macs, sizes) if node.macs else 0


def read_node_table(path: Path) -> NodeTable:
    """Read a node table.

    Raises:
        CorruptFile: it cannot be read, or is not JSON in UTF-8.
        UnsupportedFormat: another major version of the format.
        InvalidBundle: a key that is missing, unknown or of another type, or a value that is read and not described.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
    return parse_node_table(data, path)


def parse_node_table(text: str | bytes, path: Path) -> NodeTable:
    """Read a node table from its text.

    Args:
        text: JSON; bytes are in UTF-8.
        path: named in errors.

    Raises:
        CorruptFile, UnsupportedFormat, InvalidBundle: as ``read_node_table`` does.
    """
    fields = Fields(parse_json(text, path, CorruptFile, _AGAIN), path, InvalidBundle)
    later = check_version(fields.text("format_version"), FORMAT_VERSION, str(path))
    table = NodeTable(
        graph=fields.text("graph"),
        opset=fields.optional_integer("opset", least=1),
        inputs=fields.texts("inputs"),
        outputs=fields.texts("outputs"),
        initializers=fields.texts("initializers"),
        values={name: _value(value) for name, value in fields.named_tables("values").items()},
        nodes=tuple(_node(node) for node in fields.tables("nodes")),
    )
    if not later:
        fields.done()
    _check_names(table, path)
    return table


def product(dims: Iterable[int | str], sizes: Sizes = NO_SIZES) -> int:
    """Return the product of sizes and of expressions of symbolic dimensions.

    Raises:
        KeyError: a symbolic dimension without a size.
        ValueError: an expression of something else than sums, differences, products and quotients.
    """
    return math.prod(dim if isinstance(dim, int) else _evaluate(dim, sizes) for dim in dims)


def tensor_bytes(value: Value, sizes: Sizes = NO_SIZES) -> int:
    """Return the bytes of a tensor in memory; types of less than eight bits are packed.

    Raises:
        KeyError: a symbolic dimension without a size.
        ValueError: an unknown dtype or dimension.
    """
    bits = _BITS.search(value.dtype)  # int8, float32, bfloat16, float8_e4m3fn; the first number is the width
    if not bits and value.dtype != "bool":
        raise ValueError(f"a {value.dtype} has no size that is known")
    return -(-product(value.shape, sizes) * (int(bits[0]) if bits else 8) // 8)


def _evaluate(expression: str, sizes: Sizes) -> int:
    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](walk(node.left), walk(node.right))
        raise ValueError(f"{expression!r} is not an expression of sizes")

    try:
        return walk(ast.parse(expression, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError, ZeroDivisionError) as error:  # UNKNOWN_SIZE; nested too deep
        raise ValueError(f"{expression!r} is not an expression of sizes") from error


def _value(table: Fields) -> Value:
    return Value(
        dtype=table.text("dtype"),
        shape=table.shape("shape"),
        constant_bytes=table.optional_integer("bytes", least=0),
        value=table.scalar("value"),
    )


def _node(table: Fields) -> Node:
    quantization = table.optional_table("quantization")
    return Node(
        name=table.text("name"),
        op=table.text("op"),
        module=table.text("module"),
        inputs=table.texts("inputs"),
        outputs=table.texts("outputs"),
        attributes=_attributes(table),
        macs=table.shape("macs"),
        quantization=None if quantization is None else _quantization(quantization),
    )


def _attributes(table: Fields) -> dict[str, Any]:
    """Return attributes as they are, the names in those of graphs checked, which are followed."""
    attributes = table.plain("attributes")
    for name, value in attributes.items():
        if isinstance(value, dict) and "operators" in value:
            graph = Fields(value, f"{table.where}: attributes: {name}", InvalidBundle)
            graph.texts("operators")
            graph.texts("captured", [])
    return attributes


def _check_names(table: NodeTable, path: Path) -> None:
    """Check that every value that a node reads or writes is described, for whoever follows a graph looks it up."""
    named = (*table.inputs, *table.initializers)
    used = {name for node in table.nodes for name in (*node.inputs, *node.outputs) if name}
    missing = sorted({*named, *used} - set(table.values))
    if missing:
        raise InvalidBundle(f"{path}: 'values' lacks {len(missing)} that are used, as {missing[0]!r}; {_AGAIN}")


def _quantization(table: Fields) -> Quantization:
    return Quantization(
        scale=table.numbers("scale"),
        zero_point=table.integers("zero_point"),
        axis=table.optional_integer("axis"),
        dtype=table.text("dtype"),
    )
