"""A method of adapting, as the dev box knows it: PEFT's configuration, its tensors, how it trains and serves."""

import abc
import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from fieldtune.adapters import methods as device
from fieldtune.bundle import RANK
from fieldtune.errors import UnsupportedModel, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.passes.merged_tensor import Fold
from fieldtune_offline.spec import MethodSpec

_TRACED_RANK = 3
"""One rank for the trace, whatever the adapter's are; neither 0 nor 1, which torch would fix."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a method says of one of its tensors; the names are those of ``ParameterSpec``.

    Attributes:
        weight_axes: names of the axes of the module's own weight, where the device reads that to feed the tensor.
    """

    axes: tuple[str, ...]
    decay: bool = True
    transposed: bool = False
    scaled: bool = False
    optional: bool = False
    weight_axes: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServingInput:
    """An input of eval.onnx and infer.onnx that carries a part of the adapter.

    Attributes:
        key: its name.
        name: of the parameter or buffer of the model that it stands for.
        example: what it is traced with, in the form in which it is fed.
        axes: a name for each axis of the example that varies.
        transposed: whether it is fed transposed.
        default: what it is where nothing is fed; None for zeros of rank 1.
    """

    key: str
    name: str
    example: torch.Tensor
    axes: tuple[str | None, ...]
    transposed: bool = False
    default: torch.Tensor | None = None


class Method(abc.ABC):
    """One method. What is not abstract holds for a method whose own forward pass serves as it trains.

    Attributes:
        name: as ``--method`` has it; the device half knows the method by the same name.
        supported: the kinds of layers that it takes, for people.
        settings: the fields of ``MethodSpec`` that it has, beside those that all methods have.
        biases: the values of PEFT's field ``bias``; those of the adapted modules alone come last.
        honoured: fields of its configuration whose every value is honoured, beside those of ``peft_config``: what they
            do is in the model before a graph is traced.
        reasons: why a field is not.
        official: whether ONNX Runtime's official training artifacts can be made from eval.onnx: its inputs are the
            tensors of theta then, padded, transposed and scaled.
    """

    name: ClassVar[str]
    supported: ClassVar[str]
    settings: ClassVar[frozenset[str]] = frozenset()
    biases: ClassVar[tuple[str, ...]] = ()
    honoured: ClassVar[frozenset[str]] = frozenset()
    reasons: ClassVar[Mapping[str, str]] = {}
    official: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """Its name for people."""
        return device.method_named(self.name).title

    @property
    def fold(self) -> Fold | None:
        """What takes an adapter out of a forward graph; None where it cannot be merged."""
        return None

    @abc.abstractmethod
    def config_class(self) -> Any:
        """Return PEFT's class of configurations."""

    @abc.abstractmethod
    def fields(self, spec: MethodSpec) -> dict[str, Any]:
        """Return the fields of a new configuration, but for those that all methods have."""

    def honours(self, field: str, value: object) -> bool:
        """Whether a value of a field that is not always honoured is honoured all the same."""
        del field, value
        return False

    def narrowed(self, config: Any, targets: Sequence[str]) -> Any:
        """Return a configuration that adapts some of the modules that another one adapts."""
        return dataclasses.replace(config, target_modules=list(targets))

    @abc.abstractmethod
    def layer_class(self) -> type[Any]:
        """Return PEFT's class of what it makes of the targeted modules."""

    def layers(self, model: nn.Module) -> dict[str, Any]:
        """Return PEFT's layers of the method by their names."""
        kind = self.layer_class()
        return {name: module for name, module in model.named_modules() if isinstance(module, kind)}

    @abc.abstractmethod
    def layer_fault(self, layer: Any) -> str:
        """Return why one of PEFT's layers cannot be traced and served; "" where it can."""

    def check_layers(self, model: nn.Module) -> None:
        """Check that what PEFT made of the targeted modules can be traced and served.

        Raises:
            UnsupportedModel: a layer of another kind; every one is listed.
        """
        layers = self.layers(model)
        faults = [f"{name}: {fault}" for name, layer in layers.items() if (fault := self.layer_fault(layer))]
        if faults:
            raise UnsupportedModel(f"{self.title} is supported on {self.supported} only{listed(faults)}")

    @abc.abstractmethod
    def facts(self, layer: Any, part: str, tensor: torch.Tensor) -> Facts:
        """Return the facts of one of the method's own tensors.

        Args:
            layer: PEFT's, which the tensor belongs to.
            part: what PEFT calls it in the layer, without the adapter's name.
            tensor: it.
        """

    def start(self, model: nn.Module) -> None:
        """Set what a new adapter starts with that depends on the base's weights: on loading, and when it is packed.

        PEFT has no weights to take it from while layers hold their matrices in parts.
        """
        del model

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """Give the layers the form in which the training graph is traced, for as long as the context lasts."""
        del model
        yield

    @contextlib.contextmanager
    def serving(self, model: nn.Module) -> Iterator[None]:
        """Give the layers the form in which eval.onnx and infer.onnx are traced, for as long as the context lasts."""
        del model
        yield

    @contextlib.contextmanager
    def reference(self, model: nn.Module) -> Iterator[None]:
        """Let PEFT's own forward pass compute with a packed base, for as long as the context lasts."""
        del model
        yield

    def serving_inputs(self, adapted: Adapted) -> list[ServingInput]:
        """Return what eval.onnx and infer.onnx take of the adapter, in order; called within ``serving``.

        By the facts of the layout: tensors with a rank take any rank, the others have their initial values as defaults.
        """
        tensors = dict(adapted.model.named_parameters())
        inputs: list[ServingInput] = []
        for p in adapted.layout.parameters:
            name = adapted.names[p.key]
            tensor = tensors[name].detach()
            if p.rank_axis is None:
                example, axes = tensor.clone(), (None,) * tensor.ndim
                inputs.append(ServingInput(key=p.key, name=name, example=example, axes=axes, default=tensors[name]))
            else:
                inputs.append(ranked_input(p.key, name, tensor.shape, p.rank_axis, transposed=p.transposed))
        return inputs


def ones_unfed(inputs: Sequence[ServingInput], keys: Collection[str]) -> list[ServingInput]:
    """Return inputs, of which those of some keys are 1 where nothing is fed: factors that change nothing."""
    return [
        dataclasses.replace(given, default=torch.ones_like(given.example)) if given.key in keys else given
        for given in inputs
    ]


def ranked_input(key: str, name: str, shape: Sequence[int], rank_axis: int, *, transposed: bool) -> ServingInput:
    """Return an input of any rank, whose default adds nothing.

    Args:
        key: its name.
        name: of what it stands for in the model.
        shape: of that, with any rank.
        rank_axis: which axis the rank is.
        transposed: whether it is fed transposed.
    """
    zeros = torch.zeros([_TRACED_RANK if axis == rank_axis else size for axis, size in enumerate(shape)])
    axes = tuple(RANK if axis == rank_axis else None for axis in range(len(shape)))
    if transposed:
        zeros, axes = zeros.T.contiguous(), axes[::-1]
    return ServingInput(key=key, name=name, example=zeros, axes=axes, transposed=transposed)
