"""Tracing: from a module with a batch to one exported program, forward only or with the gradients of its adapter.

No weight is copied and nothing is computed: torch traces with tensors that have shapes only.
"""

import contextlib
import dataclasses
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.lowering import Input
from fieldtune_offline.lowering.padding import differentiable_padding
from fieldtune_offline.methods.interface import ServingInput
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.quiet import quiet_tracing
from fieldtune_offline.tasks.interface import Traceable

_MODEL_ERRORS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""What a model's own code raises where it meets what it was not written for, such as PEFT's layers."""


@dataclasses.dataclass(frozen=True, slots=True)
class TracedGradient:
    """A program that goes forward and backward.

    Attributes:
        program: in core ATen operators.
        source: what was traced.
        inputs: of the program.
    """

    program: ExportedProgram
    source: Traceable
    inputs: Sequence[Input]


def trace_gradient(source: Traceable, adapted: Adapted, static: frozenset[str]) -> TracedGradient:
    """Trace forward and backward: outputs of the module, then the gradient of each parameter that requires one.

    The first output is the loss.

    Raises:
        UnsupportedModel: torch cannot trace the model, or a size cannot vary.
    """
    from torch.export.experimental import _export_forward_backward

    inputs = [Input(name, _without(axes, static)) for name, axes in source.inputs]
    with _tracing(), method_named(adapted.method).training(adapted.model):
        program = differentiable_padding(_export(source.module, dict(source.batch), inputs))
        try:
            joint = _export_forward_backward(program, joint_loss_index=0)
        except (RuntimeError, AssertionError) as error:
            raise UnsupportedModel(f"torch cannot differentiate the traced model: {_brief(error)}") from error
    return TracedGradient(joint, source, inputs)


@dataclasses.dataclass(frozen=True, slots=True)
class TracedForward:
    """A program that goes forward, with the adapter as inputs.

    Attributes:
        program: in core ATen operators.
        source: what was traced.
        inputs: of the program, all; those of the adapter come last.
        adapter: what the inputs of the adapter are.
    """

    program: ExportedProgram
    source: Traceable
    inputs: Sequence[Input]
    adapter: Sequence[ServingInput]


def trace_adapted(source: Traceable, adapted: Adapted, static: frozenset[str]) -> TracedForward:
    """Trace forward with the adapter as inputs, which the method describes; the rank is symbolic.

    Raises:
        UnsupportedModel: as for ``trace_gradient``.
    """
    inputs = [Input(name, _without(axes, static)) for name, axes in source.inputs]
    method = method_named(adapted.method)
    with _tracing(), method.serving(adapted.model):
        carried = method.serving_inputs(adapted)
        inputs += [Input(given.key, given.axes) for given in carried]
        adapter = {given.key: given.example for given in carried}
        program = _export(_WithAdapter(source, carried), {"batch": dict(source.batch), "adapter": adapter}, inputs)
        return TracedForward(program.run_decompositions(), source, inputs, carried)


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Silence libraries, and let the garbage collector wait.

    A trace makes objects by the million and keeps them all; looking through them again and again took an eighth of it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with quiet_tracing():
            yield
    finally:
        if enabled:
            gc.enable()


class _WithAdapter(nn.Module):
    def __init__(self, source: Traceable, carried: Sequence[ServingInput]) -> None:
        super().__init__()
        self.module = source.module
        self._carried = tuple((given.key, f"{source.model_path}.{given.name}", given.transposed) for given in carried)

    def forward(self, batch: dict[str, Any], adapter: dict[str, torch.Tensor]) -> Any:
        tensors = {name: adapter[key].T if transposed else adapter[key] for key, name, transposed in self._carried}
        return torch.func.functional_call(self.module, tensors, kwargs=batch)


def _export(module: nn.Module, arguments: dict[str, Any], inputs: Sequence[Input]) -> ExportedProgram:
    flat, structure = pytree.tree_flatten(arguments)
    if len(flat) != len(inputs):
        raise ValueError(f"{len(flat)} tensors to trace with; {len(inputs)} inputs were described")
    varying = [
        {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(described.axes) if name is not None} or None
        for described in inputs
    ]
    with torch.no_grad() if not _wants_gradient(module) else torch.enable_grad():
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
