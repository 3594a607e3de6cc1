"""Stand-ins for products with packed matrices: one float32 product for each, in whose place the packed one comes back.

Folds know products of one node with a float32 weight. So each product with a packed matrix gets such a node beside it:

1. What reads the packed product reads its stand-in, with the unpacked matrix as the weight; a bias that is added to the
   product alone is the stand-in's third input.
2. The packed product stays where it is, cut off from what it multiplies and kept alive as an output of the graph, until
   it is put back, with the parts of another matrix where the stand-in's weight has become another one, or is left out.

No value is computed here: a stand-in's weight unpacks its matrix when it is asked for its values.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from fieldtune.errors import ExportError
from fieldtune_offline.lowering import PACKED
from fieldtune_offline.passes.merged_tensor import register, unbound
from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.precisions.table import precision_of

_CODES = ".codes"


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A product with a packed matrix in a graph.

    Attributes:
        core: the node that has both the matrix and what is multiplied.
        entries: which inputs of which nodes are what is multiplied.
        output: what the product gives.
        columns: of the matrix.
    """

    core: ir.Node
    entries: Sequence[tuple[ir.Node, int]]
    output: ir.Value
    columns: int


@dataclasses.dataclass(frozen=True, slots=True)
class StandIn:
    """A float32 product in the place of a packed one.

    Attributes:
        node: a Gemm, or a Gather of an embedding's rows.
        source: the node and the input of it that is what the packed product multiplies.
        precision: of the packed matrix.
        weight: the unpacked matrix, (rows, columns).
        parts: of the packed matrix, by the names of its parts.
        output: what the packed product gives.
        given: what it multiplies until it is put back.
        readers: the nodes of the packed product that read parts.
        waiting: those of them that wait for what is multiplied, until they are stood in for.
    """

    node: ir.Node
    source: tuple[ir.Node, int]
    precision: Precision
    weight: ir.Value
    parts: Mapping[str, ir.Value]
    output: ir.Value
    given: ir.Value
    readers: Sequence[ir.Node]
    waiting: Sequence[ir.Node]


@dataclasses.dataclass(frozen=True, slots=True)
class Repacked:
    """A matrix that has to be packed anew, for the product whose stand-in has another weight than its own.

    Attributes:
        weight: name of that weight, (rows, columns).
        precision: as it was packed before.
        parts: the initializers of its parts by the names of these, without values.
    """

    weight: str
    precision: Precision
    parts: Mapping[str, ir.Value]


def stand_in(model: ir.Model, recipes: Mapping[str, str], *, loops: bool = False) -> list[StandIn]:
    """Let float32 products stand in for the packed ones of a graph, in place.

    Args:
        model: eval.onnx or infer.onnx, loaded from a bundle.
        recipes: module → what its matrix is packed by.
        loops: whether also in the bodies of loops, where stand-ins can only be left.

    Raises:
        ExportError: a product of another form than builds make.
    """
    graph = model.graph
    for value in [value for value in graph.inputs if _matrix_of(value, recipes) is not None]:
        graph.inputs.remove(value)
        value.meta[PACKED] = True
    bodies = [graph, *(graph.subgraphs() if loops else ())]
    waiting = [node for body in bodies for node in _stopped_waiting(body)]
    nodes = [node for body in bodies for node in body]
    made: list[StandIn] = []
    cut: dict[int, tuple[ir.Value, ir.Value]] = {}
    for name in [name.removesuffix(_CODES) for name in graph.initializers if name.endswith(_CODES)]:
        if name not in recipes:
            continue
        precision = precision_of(recipes[name])
        parts = {part: graph.initializers[f"{name}.{part}"] for part in precision.part_names}
        readers, cores = _readers(nodes, parts.values())
        found = [_found(core, parts["codes"], name) for core in cores if _is_core(core, parts["codes"], readers)]
        if not found:
            continue
        rows = next((_size(product.output, -1) for product in found if product.core.op_type != "Gather"), None)
        shape = (_size(parts["codes"], 0) if rows is None else rows, found[0].columns)
        weight = _unpacked(f"{name}.weight", precision, parts, shape)
        graph.register_initializer(weight)
        made += [_placed(product, precision, weight, parts, readers, waiting, cut) for product in found]
    return made


def put_back(model: ir.Model, stand_ins: Sequence[StandIn]) -> list[Repacked]:
    """Put packed products back in the place of their stand-ins; return the matrices that are others than before.

    Their weights are no initializers any more; their parts are, without values.
    """
    graph = model.graph
    new: dict[str, Repacked] = {}
    for held in stand_ins:
        weight = held.node.inputs[_weight_input(held.node)]
        assert weight is not None
        if weight is not held.weight:
            repacked = new.setdefault(str(weight.name), _repacked(held, str(weight.name)))
            for part, old in held.parts.items():
                _replace(held.readers, old, repacked.parts[part])
        reader, index = held.source
        source = reader.inputs[index]
        assert source is not None
        held.given.replace_all_uses_with(source)
        _wait_again(held, source)
        graph.outputs.remove(held.output)
        result = _with_bias(held)
        _take_place(held.node.outputs[0], result)
        graph.remove(held.node, safe=True)
        if reader is not held.node:
            graph.remove(reader, safe=True)
    _drop(graph, list(graph.initializers.values()))
    for name, repacked in new.items():
        graph.initializers.pop(name, None)
        register(graph, repacked.parts.values())
    return list(new.values())


def leave_out(model: ir.Model, stand_ins: Iterable[StandIn]) -> None:
    """Leave stand-ins where they are, and nothing of the packed products."""
    for held in stand_ins:
        assert isinstance(held.node.graph, ir.Graph)
        held.node.graph.outputs.remove(held.output)
    for graph in (*model.graph.subgraphs(), model.graph):
        for node in reversed(list(graph)):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                graph.remove(node, safe=True)
    _drop(model.graph, list(model.graph.initializers.values()))


def _drop(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    for value in values:
        name = str(value.name)
        if graph.initializers.get(name) is value and not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _stopped_waiting(graph: ir.Graph) -> list[ir.Node]:
    """Let parts wait no more for what they are multiplied with; return the nodes that did."""
    waiting: list[ir.Node] = []
    for node in list(graph):
        chosen = _producer(node.inputs[1], "Where") if node.op_type == "Reshape" else None
        flag = None if chosen is None else _producer(chosen.inputs[0], "Cast")
        if chosen is None or chosen.inputs[1] is not chosen.inputs[2] or flag is None:
            continue
        if _producer(flag.inputs[0], "GatherND") is not None:
            node.replace_input_with(1, chosen.inputs[1])
            waiting.append(node)
    for node in reversed(list(graph)):
        idle = not any(value.uses() or value.is_graph_output() for value in node.outputs)
        if idle and node.op_type in ("Where", "Cast", "GatherND"):
            graph.remove(node, safe=True)
    return waiting


def _wait_again(held: StandIn, source: ir.Value) -> None:
    """Let parts wait for what they are multiplied with, as lowering has them do."""
    if not held.waiting:
        return
    assert source.shape is not None
    graph, stem = held.waiting[0].graph, f"{held.output.name}.waiting"
    assert graph is not None
    place = ir.Value(name=f"{stem}.place", type=ir.TensorType(ir.DataType.INT64))
    place.shape = ir.Shape([1, len(source.shape)])
    place.const_value = ir.tensor(np.zeros((1, len(source.shape)), np.int64), name=place.name)
    graph.register_initializer(place)
    number = _node(graph, held.waiting[0], f"{stem}.number", "GatherND", [source, place], source.type)
    flag = _node(graph, held.waiting[0], f"{stem}.flag", "Cast", [number], ir.TensorType(ir.DataType.BOOL), to=9)
    for count, reshape in enumerate(held.waiting):
        shape = reshape.inputs[1]
        assert shape is not None
        chosen = _node(graph, reshape, f"{stem}.{count}", "Where", [flag, shape, shape], shape.type)
        chosen.shape = shape.shape
        reshape.replace_input_with(1, chosen)


def _node(
    graph: ir.Graph,
    before: ir.Node,
    name: str,
    operator: str,
    inputs: Sequence[ir.Value],
    kind: ir.TypeProtocol | None,
    **attributes: int,
) -> ir.Value:
    node = ir.node(operator, inputs, attributes)
    node.name, node.metadata_props["module"] = name, before.metadata_props.get("module", "")
    (made,) = node.outputs
    made.name, made.type, made.shape = name, kind, ir.Shape([1])
    graph.insert_before(before, node)
    return made


def _matrix_of(value: ir.Value, recipes: Mapping[str, str]) -> str | None:
    module, _, part = str(value.name).rpartition(".")
    return module if module in recipes and part in precision_of(recipes[module]).part_names else None


def _unpacked(name: str, precision: Precision, parts: Mapping[str, ir.Value], shape: tuple[int, int]) -> ir.Value:
    """Return a weight that is unpacked whenever it is asked for its values."""

    def make() -> ir.TensorProtocol:
        tensors = [torch.from_numpy(np.array(_held(part).numpy())) for part in parts.values()]
        return ir.tensor(precision.unpack(tensors, *shape).contiguous().numpy(), name=name)

    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    value.const_value = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
    return value


def _held(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _readers(nodes: Iterable[ir.Node], parts: Iterable[ir.Value]) -> tuple[list[ir.Node], list[ir.Node]]:
    """Return the nodes that depend on parts and constants alone, and those that bring them together with the rest."""
    held = {id(part) for part in parts}
    own = set(held)
    constants: set[int] = set()
    readers: list[ir.Node] = []
    cores: list[ir.Node] = []
    for node in nodes:
        read = [value for value in node.inputs if value is not None]
        fixed = all(id(value) in own or id(value) in constants or value.const_value is not None for value in read)
        if node.op_type == "Gather" and id(read[0]) in held:
            cores.append(node)  # whose ids may be constants: positions of a fixed length
        elif not any(id(value) in own for value in read):
            constants.update(id(value) for value in node.outputs if fixed)
        elif fixed:
            own.update(id(value) for value in node.outputs)
            readers.append(node)
        else:
            cores.append(node)
    return readers, cores


def _is_core(node: ir.Node, codes: ir.Value, readers: Sequence[ir.Node]) -> bool:
    """Whether a node multiplies with codes, or gathers them; another one gathers their scales."""
    if node.op_type == "Gather":
        return node.inputs[0] is codes
    outputs = {id(value) for reader in readers for value in reader.outputs} | {id(codes)}
    return any(id(value) in outputs for value in node.inputs)


def _found(core: ir.Node, codes: ir.Value, name: str) -> _Found:
    """Return the product that a node is the core of."""
    find = _FORMS.get(core.op_type)
    found = None if find is None else find(core, codes)
    if found is None:
        raise ExportError(
            f"{name}: its packed matrix goes into {core.name} ({core.op_type}), which is no product as builds make it; "
            "build the bundle again with this release"
        )
    return found


def _gathered(core: ir.Node, codes: ir.Value) -> _Found | None:
    """Rows of an embedding: codes and scales are gathered, and multiplied."""
    cast = _only_reader(core.outputs[0], "Cast")
    product = None if cast is None else _only_reader(cast.outputs[0], "Mul")
    reshaped = None if product is None else _producer(product.inputs[1], "Reshape")
    scales = None if reshaped is None else _producer(reshaped.inputs[0], "Gather")
    if product is None or scales is None:
        return None
    return _Found(core, [(core, 1), (scales, 1)], product.outputs[0], _size(codes, 1))


def _of_integers(core: ir.Node, codes: ir.Value) -> _Found | None:
    """A product of integers: rows are quantized with a scale of their own, and the result is multiplied with it."""
    del codes
    quantized, product = _producer(core.inputs[0], "QuantizeLinear"), _only_reader(core.outputs[0], "Mul")
    scales = None if quantized is None else quantized.inputs[1]
    for operator in ("Reshape", "Max", "Mul", "ReduceMax", "Abs"):
        node = _producer(scales, operator)
        if node is None:
            return None
        scales = node.inputs[0]
    if quantized is None or product is None or quantized.inputs[0] is not scales:
        return None
    assert node is not None
    return _Found(core, [(quantized, 0), (node, 0)], product.outputs[0], _size(scales, -1))


def _inside(core: ir.Node, codes: ir.Value) -> _Found:
    """A product that unpacks its matrix itself; its rows may be filled up first."""
    del codes
    return _behind_pad(core, core)


def _dequantized(core: ir.Node, codes: ir.Value) -> _Found | None:
    """A product with a matrix whose columns lie in another order, in which the input is put first."""
    del codes
    node: ir.Node | None = core
    for operator in ("Reshape", "Concat", "Reshape", "Split", "Reshape"):
        node = None if node is None else _producer(node.inputs[0], operator)
    return None if node is None else _behind_pad(core, node)


def _behind_pad(core: ir.Node, first: ir.Node) -> _Found:
    """Return a product whose input goes into a node, which may be behind one that fills rows up."""
    pad = _producer(first.inputs[0], "Pad")
    if pad is not None:
        return _Found(core, [(pad, 0)], core.outputs[0], _size(pad.inputs[0], -1))
    # Lowering reshapes once: the input itself may have more axes than rows and columns.
    return _Found(core, [(first, 0)], core.outputs[0], _size(core.inputs[0], -1))


_FORMS = {
    "Gather": _gathered,
    "MatMulIntegerToFloat": _of_integers,
    "MatMulNBits": _inside,
    "MatMulBnb4": _inside,
    "Gemm": _dequantized,
}


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None


def _only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    readers = [node for node, _ in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == operator else None


def _size(value: ir.Value | None, axis: int) -> int:
    assert value is not None
    assert value.shape is not None
    size = list(value.shape)[axis]
    assert isinstance(size, int)
    return size


def _placed(
    found: _Found,
    precision: Precision,
    weight: ir.Value,
    parts: Mapping[str, ir.Value],
    readers: Sequence[ir.Node],
    waiting: Sequence[ir.Node],
    cut: dict[int, tuple[ir.Value, ir.Value]],
) -> StandIn:
    """Put a stand-in behind a product; return it.

    Products of one value may share the nodes that quantize it: ``cut`` has the values that were put in the place of
    others, and these.
    """
    graph = found.core.graph
    assert isinstance(graph, ir.Graph)
    first, index = found.entries[0]
    read = first.inputs[index]
    assert read is not None
    source, given = cut.get(id(read)) or (read, unbound(f"{found.output.name}.given", read))
    cut[id(given)] = (source, given)
    for node, place in found.entries:
        node.replace_input_with(place, given)
    if found.core.op_type == "Gather":
        node = ir.node("Gather", [weight, source], {"axis": 0})
        made = None
    else:
        flat = _flat(graph, source, found)
        node = ir.node("Gemm", [flat, weight], {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1})
        made = None if flat is source else flat.producer()
    reader = node if made is None else made
    last = found.output.producer()
    assert last is not None
    node.name, node.metadata_props["module"] = f"{last.name}.float32", last.metadata_props.get("module", "")
    (total,) = node.outputs
    total.name, total.type, total.shape = f"{found.output.name}.float32", found.output.type, found.output.shape
    graph.insert_after(reader if reader is not node else last, node)
    _take_place(found.output, total)
    graph.outputs.append(found.output)
    if found.core.op_type != "Gather":
        _take_bias(graph, node)
    own = _ancestors([found.core, *(entry for entry, _ in found.entries)], readers)
    place = next(index for index, value in enumerate(reader.inputs) if value is source)
    held = [reshape for reshape in own if reshape in waiting]
    return StandIn(node, (reader, place), precision, weight, parts, found.output, given, own, held)


def _flat(graph: ir.Graph, source: ir.Value, found: _Found) -> ir.Value:
    """Return a value as (n, columns), by a node in front of where it is read."""
    assert source.shape is not None
    if len(source.shape) == 2:
        return source
    name = f"{found.output.name}.flat"
    sizes = ir.Value(name=f"{name}.sizes", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([2]))
    sizes.const_value = ir.tensor(np.array([-1, found.columns], np.int64), name=sizes.name)
    graph.register_initializer(sizes)
    reshape = ir.node("Reshape", [source, sizes])
    reshape.name = name
    (flat,) = reshape.outputs
    assert found.output.shape is not None
    flat.name, flat.type = name, source.type
    flat.shape = ir.Shape([found.output.shape[0], found.columns])
    last = found.output.producer()
    assert last is not None
    graph.insert_after(last, reshape)
    return flat


def _ancestors(nodes: Sequence[ir.Node], among: Sequence[ir.Node]) -> list[ir.Node]:
    """Return nodes, and those of others that they get their inputs from."""
    found = list(dict.fromkeys(nodes))
    for node in found:  # which grows
        made = [value.producer() for value in node.inputs if value is not None]
        found += [other for other in made if other is not None and other in among and other not in found]
    return found


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """Let what reads a value read another; an output of the graph keeps its name."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}.other", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _take_bias(graph: ir.Graph, product: ir.Node) -> None:
    """Let a stand-in add the bias that is added to its output, through a reshape at most."""
    value = product.outputs[0]
    reshape = _only_reader(value, "Reshape")
    total = value if reshape is None or value.is_graph_output() else reshape.outputs[0]
    addition = None if total.is_graph_output() else _only_reader(total, "Add")
    if addition is None:
        return
    bias = addition.inputs[1] if addition.inputs[0] is total else addition.inputs[0]
    if bias is None or bias.const_value is None or bias.shape is None or list(bias.shape) != [_size(value, -1)]:
        return
    product.resize_inputs(3)
    product.replace_input_with(2, bias)
    _take_place(addition.outputs[0], total)
    graph.remove(addition, safe=True)


def _with_bias(held: StandIn) -> ir.Value:
    """Return what a packed product gives, plus the bias that its stand-in adds."""
    bias = held.node.inputs[2] if len(held.node.inputs) > 2 else None
    if bias is None:
        return held.output
    addition = ir.node("Add", [held.output, bias])
    addition.name = f"{held.node.name}.bias"
    addition.metadata_props["module"] = held.node.metadata_props["module"]
    (total,) = addition.outputs
    total.name, total.type, total.shape = f"{held.output.name}.biased", held.output.type, held.output.shape
    assert held.node.graph is not None
    held.node.graph.insert_before(held.node, addition)
    return total


def _weight_input(node: ir.Node) -> int:
    return 0 if node.op_type == "Gather" else 1


def _repacked(held: StandIn, weight: str) -> Repacked:
    """Return new parts for a matrix."""
    module = weight.removesuffix(".weight")
    parts: dict[str, ir.Value] = {}
    for part, old in held.parts.items():
        new = unbound(f"{module}.{part}", old)
        new.meta.update(old.meta)
        parts[part] = new
    return Repacked(weight, held.precision, parts)


def _replace(nodes: Iterable[ir.Node], old: ir.Value, new: ir.Value) -> None:
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)
