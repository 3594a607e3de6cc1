"""The three graphs of a bundle: gradient.onnx, eval.onnx and infer.onnx, from one adapted model."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch

from fieldtune_offline.adapted import Adapted
from fieldtune_offline.graph import CONTRIBUTED_OPSET, IR_VERSION, OPSET, Graph, tensor_spec
from fieldtune_offline.losses import cross_entropy
from fieldtune_offline.lowering import GraphBuilder, LoweredProgram, Tensor, lower_program
from fieldtune_offline.lowering.call import Lowerings
from fieldtune_offline.lowering.elementwise import NORMS
from fieldtune_offline.lowering.needed import needed_nodes, values_read
from fieldtune_offline.passes.flatten_parameters import join_gradients, split_theta
from fieldtune_offline.precisions import operators
from fieldtune_offline.tasks.interface import Part
from fieldtune_offline.tracing import TracedForward, TracedGradient
from fieldtune_offline.weights import is_lifted_constant, program_weights, stored_name


def gradient_graph(traced: TracedGradient, adapted: Adapted, *, unpacked: bool = False) -> Graph:
    """Return batch, theta → loss_sum, weight, grad_sum.

    ``theta`` and ``grad_sum`` are float32 of shape (layout.size,); the sums are over the labels that count, so that
    microbatches add up exactly and the loop divides once.

    Args:
        traced: what it computes.
        adapted: the model.
        unpacked: whether products of integers give way to products of unpacked matrices, to be compared with torch.
    """
    source, build = traced.source, GraphBuilder()
    weights = program_weights(traced.program, source.model_path)
    theta, pieces = split_theta(build, adapted.layout)
    keys = {f"{source.model_path}.{name}": key for key, name in adapted.names.items()}
    lowered = lower_program(
        traced.program,
        traced.inputs,
        build,
        given={name: pieces[key] for name, key in keys.items()},
        names=weights.names,
        more=_lowerings(unpacked=unpacked),
    )
    gradients = {keys[name]: tensor for name, tensor in lowered.gradients.items()}
    outputs = dict(zip(source.outputs, lowered.outputs, strict=True))
    outputs["grad_sum"] = join_gradients(build, adapted.layout, gradients)
    return _close("gradient", build, [*lowered.inputs, theta], [], outputs, lowered, weights.tensors, source.pads)


def adapted_graph(
    name: str, traced: TracedForward, part: Part | None = None, *, serving: bool = False, unpacked: bool = False
) -> Graph:
    """Return a forward graph that takes the adapter as named inputs with defaults and a symbolic rank.

    The defaults are the base alone, with the initial head: zeros of rank 1, or what the method says.

    Args:
        name: of the graph.
        traced: what it computes.
        part: what it leaves of that; all of it if None.
        serving: whether it is kept open for many small products, and not beside the training graph.
        unpacked: as for ``gradient_graph``.
    """
    source, build = traced.source, GraphBuilder()
    weights = program_weights(traced.program, f"module.{source.model_path}")
    more = _lowerings(serving=serving, unpacked=unpacked)
    lowered = lower_program(traced.program, traced.inputs, build, given={}, names=weights.names, more=more)
    count = len(source.inputs)
    held = dict(weights.tensors)
    adapter = list(lowered.inputs[count:])
    for given, tensor in zip(traced.adapter, adapter, strict=True):
        if given.default is not None:
            held[given.key] = given.default
        else:
            shape = [dim if isinstance(dim, int) else 1 for dim in tensor.dims]
            tensor.value.const_value = ir.tensor(torch.zeros(shape).numpy(), name=given.key)
    inputs = {str(tensor.value.name): tensor for tensor in lowered.inputs[:count]}
    outputs = dict(zip(source.outputs, lowered.outputs, strict=True))
    if part is not None:
        inputs = {key: inputs[key] for key in part.inputs}
        outputs = {key: outputs[key] for key in part.outputs}
    return _close(name, build, list(inputs.values()), adapter, outputs, lowered, held, source.pads)


def _lowerings(*, serving: bool = False, unpacked: bool = False) -> Lowerings:
    own = operators.lowerings(serving=serving, unpacked=unpacked)
    return {**own, **cross_entropy.lowerings(unpacked=unpacked), **(NORMS if serving else {})}


def _close(
    name: str,
    build: GraphBuilder,
    inputs: Sequence[Tensor],
    adapter: Sequence[Tensor],
    outputs: Mapping[str, Tensor],
    lowered: LoweredProgram,
    held: Mapping[str, torch.Tensor],
    pads: Mapping[str, int],
) -> Graph:
    results: dict[str, Tensor] = {}
    for key, tensor in outputs.items():
        # An output keeps its name to itself: an input, a weight or an earlier output passed on gets a node of its own.
        passed = tensor.value.producer() is None or any(tensor is earlier for earlier in results.values())
        results[key] = build.op("Identity", [tensor], tensor.dtype, tensor.dims) if passed else tensor
        results[key].value.name = key
    nodes = needed_nodes(build.nodes, [tensor.value for tensor in results.values()])
    used = {id(value) for node in nodes for value in values_read(node)}
    weights = [tensor.value for tensor in lowered.weights.values() if id(tensor.value) in used]
    defaults = [tensor.value for tensor in adapter if tensor.value.const_value is not None]
    lifted = [value for value in weights if is_lifted_constant(str(value.name))]
    for value in lifted:
        value.const_value = ir.tensor(held[stored_name(str(value.name))].detach().numpy(), name=value.name)
    unbound = [value for value in weights if value not in lifted]
    unbound += [tensor.value for tensor in adapter if tensor.value.const_value is None]
    constants = [value for value in build.initializers if id(value) in used]
    graph = ir.Graph(
        [tensor.value for tensor in (*inputs, *adapter)],
        [tensor.value for tensor in results.values()],
        nodes=nodes,
        initializers=[*constants, *lifted, *defaults, *unbound],
        opset_imports={"": OPSET},
        name=name,
    )
    for node in graph.all_nodes():
        graph.opset_imports.setdefault(node.domain, CONTRIBUTED_OPSET)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="fieldtune")
    return Graph(
        name=name,
        model=model,
        inputs=tuple(tensor_spec(tensor, pads) for tensor in inputs),
        outputs=tuple(tensor_spec(tensor) for tensor in results.values()),
        adapter_inputs=tuple(tensor_spec(tensor) for tensor in adapter),
        weights={name: held[name] for name in sorted({stored_name(str(value.name)) for value in unbound})},
        unbound=tuple(unbound),
    )
