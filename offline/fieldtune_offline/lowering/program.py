"""From an exported program (core ATen operators) to ONNX operators, node by node."""

import dataclasses
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from fieldtune.errors import UnsupportedModel, listed
from fieldtune_offline.lowering import contraction, convolution, elementwise, indexing, movement, normalization
from fieldtune_offline.lowering.builder import GraphBuilder, Tensor
from fieldtune_offline.lowering.call import Call, Lowered, Lowerings
from fieldtune_offline.lowering.shapes import Shapes, dim_of

LOWERINGS: Lowerings = {
    **elementwise.LOWERINGS,
    **movement.LOWERINGS,
    **contraction.LOWERINGS,
    **convolution.LOWERINGS,
    **indexing.LOWERINGS,
    **normalization.LOWERINGS,
}

_NONE: Lowerings = MappingProxyType({})

aten = torch.ops.aten
_NO_VALUE = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """A user input of the program: its name in the graph, and a name for each axis whose size may vary."""

    name: str
    axes: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class LoweredProgram:
    """Which tensor of the graph under construction is which of the program.

    Attributes:
        inputs: user inputs in order.
        weights: name in the graph → the tensor that stands for a parameter or buffer, without those that were given;
            twins by names of their own.
        outputs: user outputs (the loss among them) in order.
        gradients: parameter name → its gradient.
    """

    inputs: tuple[Tensor, ...]
    weights: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor]


def lower_program(
    program: ExportedProgram,
    inputs: Sequence[Input],
    build: GraphBuilder,
    *,
    given: Mapping[str, Tensor],
    names: Mapping[str, str],
    more: Lowerings = _NONE,
) -> LoweredProgram:
    """Lower a program.

    Args:
        program: in core ATen operators, functional.
        inputs: one per user input, in order.
        build: where the nodes go.
        given: parameter name → the tensor that takes its place.
        names: parameter or buffer name → its name in the graph; two with one name are one tensor.
        more: lowerings beside those of torch's own operators, or in their place.

    Raises:
        UnsupportedModel: operators without a lowering; every one is named, with its count.
    """
    lowerings = {**LOWERINGS, **more}
    _check_operators(program, lowerings)
    environment: dict[fx.Node, Lowered] = {}
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    symbols = _symbol_names(program, placeholders, inputs)
    weights: dict[str, Tensor] = {}
    user: list[Tensor] = []
    shapes = Shapes(build, symbols)
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        value = node.meta["val"]
        dims = tuple(dim_of(size, symbols) for size in value.shape)
        if spec.kind == InputKind.USER_INPUT:
            tensor = build.source(inputs[len(user)].name, value.dtype, dims)
            user.append(tensor)
            shapes.learn(tensor)
        else:
            assert spec.target is not None
            name = names.get(spec.target, spec.target)
            if spec.target in given:
                tensor = given[spec.target]
            elif name in weights:
                tensor = weights[name]
            else:
                tensor = weights[name] = build.source(name, value.dtype, dims)
        environment[node] = tensor
    for node in program.graph.nodes:
        if node.op == "call_function":
            _lower_node(node, environment, build, shapes, lowerings)
    weights.update(build.twins)
    outputs, gradients = _results(program, environment)
    return LoweredProgram(tuple(user), weights, outputs, gradients)


def _check_operators(program: ExportedProgram, lowerings: Lowerings) -> None:
    missing: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            missing["a sub-graph (torch.cond, map or scan)"] += 1
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise UnsupportedModel(f"{node.target} is random; dropout and noise must be off in a training graph")
        if node.target not in lowerings and node.target not in _NO_VALUE and isinstance(_first(node), torch.Tensor):
            missing[str(node.target)] += 1
    if missing:
        faults = [f"{name} ({count} times)" for name, count in sorted(missing.items())]
        raise UnsupportedModel(f"the model needs operators that have no ONNX lowering here{listed(faults)}")


def _first(node: fx.Node) -> object:
    value = node.meta.get("val")
    return value[0] if isinstance(value, tuple | list) and value else value


def _symbol_names(
    program: ExportedProgram, placeholders: Mapping[str, fx.Node], inputs: Sequence[Input]
) -> dict[sympy.Symbol, sympy.Symbol]:
    """Name each symbol after the axis it is the size of; axes of one name that torch keeps apart become one."""
    user = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    if len(user) != len(inputs):
        raise ValueError(f"the program has {len(user)} user inputs; {len(inputs)} were described")
    names: dict[sympy.Symbol, sympy.Symbol] = {}
    for spec, described in zip(user, inputs, strict=True):
        for size, axis in zip(placeholders[spec.arg.name].meta["val"].shape, described.axes, strict=True):
            if isinstance(size, torch.SymInt) and axis is not None and isinstance(size.node.expr, sympy.Symbol):
                names.setdefault(size.node.expr, sympy.Symbol(axis, integer=True, positive=True))
    return names


def _lower_node(
    node: fx.Node, environment: dict[fx.Node, Lowered], build: GraphBuilder, shapes: Shapes, lowerings: Lowerings
) -> None:
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node) and isinstance(index, int)  # noqa: PT018
        lowered = environment[source]
        assert isinstance(lowered, tuple)
        item = lowered[index]
        if item is not None:
            environment[node] = item
        return
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in _NO_VALUE:
        return  # arithmetic of sizes: users read the expression, which the node carries
    if node.target not in lowerings:
        return  # a size, as sym_size
    build.module = _module_of(node)
    lowered = environment[node] = lowerings[node.target](Call(node, environment, build, shapes))
    for tensor in lowered if isinstance(lowered, tuple) else (lowered,):
        if tensor is not None:
            shapes.learn(tensor)


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _results(
    program: ExportedProgram, environment: Mapping[fx.Node, Lowered]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    by_name = {node.name: node for node in environment}
    outputs: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.BUFFER_MUTATION:
            _check_only_overwritten(program, by_name, str(spec.target))
            continue
        if not isinstance(spec.arg, TensorArgument):
            continue
        tensor = environment[by_name[spec.arg.name]]
        assert isinstance(tensor, Tensor)
        if spec.kind == OutputKind.GRADIENT_TO_PARAMETER:
            assert spec.target is not None
            gradients[spec.target] = tensor
        else:
            outputs.append(tensor)
    return tuple(outputs), gradients


def _check_only_overwritten(program: ExportedProgram, nodes: Mapping[str, fx.Node], buffer: str) -> None:
    """Refuse a buffer that carries something from one run to the next; one that is written before it is read does not.

    Long rope is such a case: it writes the frequencies for the length at hand, and reads them.
    """
    specs = program.graph_signature.input_specs
    held = next(nodes[spec.arg.name] for spec in specs if spec.kind == InputKind.BUFFER and spec.target == buffer)
    if any(user.target is not aten.copy.default or user.args[0] is not held for user in held.users):
        raise UnsupportedModel(f"the model changes its buffer {buffer!r} while it runs")
