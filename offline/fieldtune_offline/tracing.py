"""Tracing: from a module with a batch to one exported program, forward only or with the gradients of its adapter.

No weight is copied and nothing is computed: torch traces with tensors that have shapes only.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fieldtune.bundle.layout import Layout
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.lowering import Input
from fieldtune_offline.lowering.padding import differentiable_padding
from fieldtune_offline.quiet import quiet_tracing
from fieldtune_offline.tasks.interface import Traceable

RANK_AXIS = "rank"
_MODEL_ERRORS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""What a model's own code raises where it meets what it was not written for, such as PEFT's layers."""


def trace_gradient(source: Traceable, static: frozenset[str]) -> tuple[ExportedProgram, list[Input]]:
    """Trace forward and backward: outputs of the module, then the gradient of each parameter that requires one.

    The first output is the loss.

    Raises:
        UnsupportedModel: torch cannot trace the model, or a size cannot vary.
    """
    from torch.export.experimental import _export_forward_backward

    inputs = [Input(name, _without(axes, static)) for name, axes in source.inputs]
    program = differentiable_padding(_export(source.module, dict(source.batch), inputs))
    with quiet_tracing():
        try:
            joint = _export_forward_backward(program, joint_loss_index=0)
        except (RuntimeError, AssertionError) as error:
            raise UnsupportedModel(f"torch cannot differentiate the traced model: {_brief(error)}") from error
    return joint, inputs


def trace_adapted(source: Traceable, adapted: Adapted, static: frozenset[str]) -> tuple[ExportedProgram, list[Input]]:
    """Trace forward with the adapter as inputs, LoRA's matrices transposed: A (in, rank), B (rank, out), rank symbolic.

    A convolution's A and B keep PEFT's form: (rank, in, height, width) and (out, rank, 1, 1).

    ``alpha / rank`` is taken out of the graph; whoever feeds B multiplies it in.

    Raises:
        UnsupportedModel: as for ``trace_gradient``.
    """
    tensors = dict(adapted.model.named_parameters())
    adapter: dict[str, torch.Tensor] = {}
    inputs = [Input(name, _without(axes, static)) for name, axes in source.inputs]
    for parameter in adapted.layout.parameters:
        tensor = tensors[adapted.names[parameter.key]].detach()
        if parameter.rank_axis is None:
            adapter[parameter.key] = tensor.clone()
            inputs.append(Input(parameter.key, (None,) * tensor.ndim))
        else:
            # One rank for the trace, whatever rank_pattern says; neither 0 nor 1, which torch would fix.
            shape = [3 if axis == parameter.rank_axis else size for axis, size in enumerate(tensor.shape)]
            axes = tuple(RANK_AXIS if axis == parameter.rank_axis else None for axis in range(tensor.ndim))
            zeros = torch.zeros(shape)
            if parameter.is_matrix:
                zeros, axes = zeros.T.contiguous(), axes[::-1]
            adapter[parameter.key] = zeros
            inputs.append(Input(parameter.key, axes))
    module = _WithAdapter(source, adapted.layout, adapted.names)
    with _unit_scales(adapted.model):
        program = _export(module, {"batch": dict(source.batch), "adapter": adapter}, inputs)
        with quiet_tracing():
            return program.run_decompositions(), inputs


class _WithAdapter(nn.Module):
    def __init__(self, source: Traceable, layout: Layout, names: Mapping[str, str]) -> None:
        super().__init__()
        self.module = source.module
        self._layout = layout
        self._names = {key: f"{source.model_path}.{name}" for key, name in names.items()}

    def forward(self, batch: dict[str, Any], adapter: dict[str, torch.Tensor]) -> Any:
        tensors = {
            self._names[p.key]: adapter[p.key].T if p.is_matrix else adapter[p.key] for p in self._layout.parameters
        }
        return torch.func.functional_call(self.module, tensors, kwargs=batch)


@contextmanager
def _unit_scales(model: nn.Module) -> Iterator[None]:
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling = dict.fromkeys(layer.scaling, 1.0)
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def _export(module: nn.Module, arguments: dict[str, Any], inputs: Sequence[Input]) -> ExportedProgram:
    flat, structure = pytree.tree_flatten(arguments)
    if len(flat) != len(inputs):
        raise ValueError(f"{len(flat)} tensors to trace with; {len(inputs)} inputs were described")
    varying = [
        {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(described.axes) if name is not None} or None
        for described in inputs
    ]
    with quiet_tracing(), torch.no_grad() if not _wants_gradient(module) else torch.enable_grad():
        try:
            return torch.export.export(
                module, (), kwargs=arguments, dynamic_shapes=pytree.tree_unflatten(varying, structure), strict=False
            )
        except torch._dynamo.exc.UserError as error:
            raise UnsupportedModel(
                f"torch cannot trace the model with sizes that vary: {_brief(error)}; "
                "try static shapes (--batch, --sequence)"
            ) from error
        except (*_MODEL_ERRORS, torch._dynamo.exc.TorchDynamoException) as error:
            raise UnsupportedModel(f"torch cannot trace the model: {_brief(error)}") from error


def _wants_gradient(module: nn.Module) -> bool:
    return not isinstance(module, _WithAdapter)


def _without(axes: tuple[str | None, ...], static: frozenset[str]) -> tuple[str | None, ...]:
    return tuple(None if axis in static else axis for axis in axes)


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:600] or type(error).__name__
