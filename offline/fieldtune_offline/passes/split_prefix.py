"""Split prefix: the frozen part of the graphs, cut off once for all of them.

1. The boundary is the cheapest one of the training graph, whose backward pass needs the most of the frozen part.
2. The same values are found in the evaluation and the inference graph by what they compute.
3. The prefix is what the inference graph computes them from; a suffix is what is left of a graph that is fed with them.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from fieldtune.bundle import PREFIX_GRAPH, SUFFIX_GRAPHS, SplitSpec, TensorSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.graph import Graph
from fieldtune_offline.lowering.needed import needed_nodes
from fieldtune_offline.passes.cheapest_boundary import BATCH, cheapest_boundary, reads_batch
from fieldtune_offline.passes.fingerprints import fingerprints
from fieldtune_offline.weights import stored_name


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The graphs of a split: the prefix first, then a suffix for each graph.

    Attributes:
        graphs: they.
        spec: the manifest's entry.
        computed_by: operator and torch module that compute each value of the boundary.
    """

    graphs: tuple[Graph, ...]
    spec: SplitSpec
    computed_by: tuple[tuple[str, str], ...] = ()


def split_prefix(gradient: Graph, others: Sequence[Graph]) -> Split:
    """Cut the frozen prefix out of the training graph and of the others, which are left as they are.

    Args:
        gradient: batch, theta → sums.
        others: evaluation and inference, that one last.

    Raises:
        UnsupportedModel: there is nothing worth cutting off, or the graphs do not compute the boundary alike.
    """
    carried = cheapest_boundary(gradient.model.graph, {"theta"})
    digests = fingerprints(gradient.model.graph)
    wanted = [digests[id(value)] for value in carried]
    cuts = [(gradient, carried), *((graph, _found(graph, wanted)) for graph in others)]
    spec = SplitSpec(boundary=tuple(_boundary(index, value) for index, value in enumerate(carried)))
    source, values = cuts[-1]
    outputs = {tensor.name: value for tensor, value in zip(spec.boundary, values, strict=True)}
    prefix = extract(source, PREFIX_GRAPH, outputs, (), spec.boundary)
    suffixes = [suffix(graph, values, spec.boundary) for graph, values in cuts]
    return Split((prefix, *suffixes), spec, tuple(map(_computed_by, values)))


def suffix(graph: Graph, values: Sequence[ir.Value], boundary: Sequence[TensorSpec]) -> Graph:
    """Return what is left of a graph where these values are fed instead of computed."""
    outputs = dict(zip((spec.name for spec in graph.outputs), graph.model.graph.outputs, strict=True))
    given = list(zip(boundary, values, strict=True))
    return extract(graph, SUFFIX_GRAPHS[graph.name], outputs, given, graph.outputs)


def extract(
    graph: Graph,
    name: str,
    outputs: Mapping[str, ir.Value],
    given: Sequence[tuple[TensorSpec, ir.Value]],
    specs: Sequence[TensorSpec],
) -> Graph:
    """Return the part of a graph that computes some values from others.

    Args:
        graph: the whole; it shares nothing with the part afterwards.
        name: of the part.
        outputs: name → value of the whole.
        given: values of the whole that become inputs of the part.
        specs: of the outputs.
    """
    copies: dict[int, ir.Value] = {}
    for tensor, value in given:
        copies[id(value)] = ir.Value(name=tensor.name, type=value.type, shape=ir.Shape(tensor.shape))
    fed = [copies[id(value)] for _, value in given]
    nodes = needed_nodes(list(graph.model.graph), list(outputs.values()), set(copies))
    counting = [node for node in nodes if fed and reads_batch(node)]
    sources, held = _read(graph, [node for node in nodes if node not in counting], list(outputs.values()))
    for value in (*sources, *held):
        if id(value) not in copies:
            copies[id(value)] = ir.Value(name=value.name, type=value.type, shape=value.shape)
            copies[id(value)].const_value = value.const_value
            copies[id(value)].meta.update(value.meta)
    for node in counting:
        copies.setdefault(id(node.inputs[0]), fed[0])
    made = [_copied(node, copies) for node in nodes]
    results = [_named(copies[id(value)], key, value, made) for key, value in outputs.items()]
    inputs = [*fed, *(copies[id(value)] for value in sources)]
    model = ir.Model(
        ir.Graph(
            inputs,
            results,
            nodes=made,
            initializers=[copies[id(value)] for value in held],
            opset_imports=dict(graph.model.graph.opset_imports),
            name=name,
        ),
        ir_version=graph.model.ir_version,
        producer_name=graph.model.producer_name,
    )
    names = {value.name for value in inputs}
    unbound = {id(value) for value in graph.unbound}
    return Graph(
        name=name,
        model=model,
        inputs=(*(tensor for tensor, _ in given), *(spec for spec in graph.inputs if spec.name in names)),
        outputs=tuple(specs),
        adapter_inputs=tuple(spec for spec in graph.adapter_inputs if spec.name in names),
        weights={
            key: graph.weights[key] for value in held if id(value) in unbound for key in [stored_name(str(value.name))]
        },
        unbound=tuple(copies[id(value)] for value in held if id(value) in unbound),
    )


def _read(graph: Graph, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the inputs and the initializers of a graph that some nodes read, or that are outputs themselves."""
    read = {id(value) for node in nodes for value in node.inputs if value is not None}
    read |= {id(value) for value in outputs}
    sources = [value for value in graph.model.graph.inputs if id(value) in read]
    held = [value for value in graph.model.graph.initializers.values() if id(value) in read]
    return sources, held


def _named(result: ir.Value, name: str, whole: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    """Return a value as an output of the part, by a node of its own where it is fed: an output is no input."""
    if result.producer() is None:
        identity = ir.node("Identity", [result], name=f"{name}.Identity")
        nodes.append(identity)
        (result,) = identity.outputs
        result.type, result.shape = whole.type, whole.shape
    result.name = name
    return result


def _computed_by(value: ir.Value) -> tuple[str, str]:
    node = value.producer()
    return ("", "") if node is None else (node.op_type, node.metadata_props.get("module", ""))


def _found(graph: Graph, wanted: Sequence[str]) -> list[ir.Value]:
    """Return the values of a graph with these digests."""
    digests = fingerprints(graph.model.graph)
    values = {digests[id(value)]: value for node in graph.model.graph for value in node.outputs}
    missing = sum(digest not in values for digest in wanted)
    if missing:
        raise UnsupportedModel(
            f"the split would carry {missing} value(s) that training computes and {graph.name}.onnx does not; "
            "build without --split"
        )
    return [values[digest] for digest in wanted]


def _copied(node: ir.Node, copies: dict[int, ir.Value]) -> ir.Node:
    inputs = [None if value is None else copies[id(value)] for value in node.inputs]
    outputs = []
    for value in node.outputs:
        copy = ir.Value(name=value.name, type=value.type, shape=value.shape)
        copy.meta.update(value.meta)
        # A value that is given is not computed any more, though its node may still compute another.
        copies.setdefault(id(value), copy)
        outputs.append(copy)
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        node.attributes.values(),
        outputs=outputs,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )


def _boundary(index: int, value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    _, *rest = value.shape
    return TensorSpec(
        name=f"boundary_{index}", dtype="float32", shape=(BATCH, *(size for size in rest if isinstance(size, int)))
    )
