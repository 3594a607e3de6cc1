"""Weights and biases adjusted to quantization, operator after operator, on calibration examples.

Every operator with weights shall give, from what the quantized ones before it give, what it gave in float32. Rounding
each weight to the nearest is far from that: the errors of one operator's weights add up over all that it sums, and
those of many operators over the graph.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.placement import CONVOLUTIONS
from fieldtune_offline.accelerators.int8.calibration import Feeds
from fieldtune_offline.accelerators.int8.positions import Positions, Product, saturated
from fieldtune_offline.accelerators.int8.rounding import Array, fit_weights
from fieldtune_offline.accelerators.int8.running import Operator
from fieldtune_offline.accelerators.int8.scheme import Scheme

Constants: TypeAlias = dict[str, npt.NDArray[np.float32]]
_Values: TypeAlias = dict[str, list[npt.NDArray[Any]]]
_SAMPLES = 8192
"""Places at which an operator's result is fitted: several times the number of inputs that it sums."""
_MOST_NUMBERS = 1 << 25
"""Read at all places together; of depthwise convolutions of many channels there are fewer places."""


def adjust_weights(model: ir.Model, scheme: Scheme, positions: Positions, batches: Sequence[Feeds]) -> Constants:
    """Return weights on the grids of their positions, and biases, that make up for quantization.

    Weights and biases that several operators share are left as they are.

    Args:
        model: float32, static.
        scheme: what is quantized.
        positions: of the scheme's tensors.
        batches: calibration examples in the model's own batch size.
    """
    walk = _Walk(model, scheme, positions, batches)
    for node in model.graph:
        walk.step(node)
    return walk.constants


class _Walk:
    """The graph run twice beside each other, as far as it has come: in float32, and quantized."""

    def __init__(self, model: ir.Model, scheme: Scheme, positions: Positions, batches: Sequence[Feeds]) -> None:
        self.constants: Constants = {}
        self._model, self._scheme, self._positions = model, scheme, positions
        self._count = len(batches)
        self._quantized = frozenset(scheme.activations)
        self._weighted = {binding.weight for binding in scheme.bindings if isinstance(binding, Product)}
        self._draw = np.random.default_rng(0)
        names = [str(value.name) for value in model.graph.inputs]
        self._exact: _Values = {name: [np.asarray(batch[name]) for batch in batches] for name in names}
        self._raw: _Values = dict(self._exact)
        self._stored: _Values = {name: self._store(name, arrays) for name, arrays in self._exact.items()}
        self._left = {name: len(value.uses()) for name, value in zip(names, model.graph.inputs, strict=True)}

    def step(self, node: ir.Node) -> None:
        """Run one operator both ways, after adjusting its weights."""
        plain = Operator(node, self._model, {})
        exact = self._run(plain, [self._exact[name] for name in plain.reads])
        adjusted = plain
        if self._is_adjustable(node):
            self._adjust(node, exact[0])
            adjusted = Operator(node, self._model, self.constants)
        kept = {name for name, reader in self._scheme.kept if reader == node.name}
        read = [(self._raw if name in kept else self._stored)[name] for name in adjusted.reads]
        for name, before, now in zip(plain.writes, exact, self._run(adjusted, read), strict=True):
            self._exact[name], self._raw[name], self._stored[name] = before, now, self._store(name, now)
        self._left.update((str(value.name), len(value.uses())) for value in node.outputs)
        self._forget(node)

    def _run(self, operator: Operator, read: list[list[npt.NDArray[Any]]]) -> list[list[npt.NDArray[Any]]]:
        runs = [
            operator.run({name: arrays[index] for name, arrays in zip(operator.reads, read, strict=True)})
            for index in range(self._count)
        ]
        return [list(arrays) for arrays in zip(*runs, strict=True)]

    def _store(self, name: str, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return what eight bits keep of a value."""
        if name not in self._quantized:
            return arrays
        position = np.int32(self._positions[name])
        return [np.ldexp(saturated(np.ldexp(array, position)), -position).astype(np.float32) for array in arrays]

    def _forget(self, node: ir.Node) -> None:
        for value in {value for value in node.inputs if value is not None and value.const_value is None}:
            name = str(value.name)
            self._left[name] -= sum(other is value for other in node.inputs)
            if not self._left[name]:
                del self._exact[name], self._raw[name], self._stored[name]

    def _is_adjustable(self, node: ir.Node) -> bool:
        _, weight, bias = (*node.inputs, None, None)[:3]
        if weight is None or weight.name not in self._weighted or node.op_type == "ConvTranspose":
            return False
        assert weight.shape is not None
        outputs = weight.shape.numpy()[0 if _is_transposed(node) else -1]
        own = all(len(value.uses()) == 1 for value in node.inputs[1:] if value is not None)
        return own and (bias is None or bias.const_value is None or bias.const_value.size == outputs)

    def _adjust(self, node: ir.Node, wanted: list[npt.NDArray[Any]]) -> None:
        data, weight, bias = (*node.inputs, None)[:3]
        assert data is not None
        assert weight is not None
        assert weight.const_value is not None
        given = weight.const_value.numpy()
        weights = _grouped(node, given)
        places = min(_SAMPLES, _MOST_NUMBERS // (weights.shape[0] * weights.shape[1]))
        samples = [
            _sample(node, array, result, self._draw, -(-places // self._count))
            for array, result in zip(self._stored[str(data.name)], wanted, strict=True)
        ]
        read, results = (np.concatenate(parts, axis=1) for parts in zip(*samples, strict=True))
        position = self._positions[str(weight.name)]
        fitted, biases = fit_weights(read, results, weights, position, biased=bias is not None)
        self.constants[str(weight.name)] = _ungrouped(node, fitted, given.shape)
        if bias is not None:
            assert bias.shape is not None
            self.constants[str(bias.name)] = biases.reshape(bias.shape.numpy()).astype(np.float32)


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1) if node.op_type in CONVOLUTIONS else 1


def _is_transposed(node: ir.Node) -> bool:
    """Whether an operator's weights are (out, in), as a convolution's are."""
    return node.op_type == "Conv" or bool(node.attributes.get_int("transB", 0))


def _grouped(node: ir.Node, weights: npt.NDArray[Any]) -> Array:
    """Return weights of shape (groups, inputs, outputs)."""
    if not _is_transposed(node):
        return weights[None].astype(np.float64)
    groups = _groups(node)
    rows = weights.reshape(groups, len(weights) // groups, -1)
    return np.swapaxes(rows, 1, 2).astype(np.float64)


def _ungrouped(node: ir.Node, weights: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    turned = np.swapaxes(weights, 1, 2) if _is_transposed(node) else weights
    return np.ascontiguousarray(turned.reshape(shape), np.float32)


def _sample(
    node: ir.Node, data: npt.NDArray[Any], result: npt.NDArray[Any], draw: np.random.Generator, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what an operator reads and gives at some places, each of shape (groups, places, inputs or outputs)."""
    if node.op_type != "Conv":
        rows = draw.integers(0, data.size // data.shape[-1], count)
        return data.reshape(-1, data.shape[-1])[rows][None], result.reshape(-1, result.shape[-1])[rows][None]
    images, channels, height, width = result.shape
    places = [draw.integers(0, size, count) for size in (images, height, width)]
    read, groups = _patches(node, data, *places), _groups(node)
    given = result[places[0], :, places[1], places[2]].reshape(count, groups, channels // groups)
    grouped = read.reshape(count, groups, -1)
    return np.swapaxes(grouped, 0, 1), np.swapaxes(given, 0, 1)


def _patches(
    node: ir.Node, data: npt.NDArray[Any], image: npt.NDArray[Any], row: npt.NDArray[Any], column: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Return what a convolution reads for some pixels of its result, shape (pixels, channels, kernel height, width)."""
    attributes = node.attributes
    kernel, strides, dilations, pads = (
        attributes[name].as_ints() for name in ("kernel_shape", "strides", "dilations", "pads")
    )
    padded = np.pad(data, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))) if any(pads) else data
    patches = np.empty((len(image), data.shape[1], *kernel), np.float32)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            down, across = row * strides[0] + i * dilations[0], column * strides[1] + j * dilations[1]
            patches[:, :, i, j] = padded[image, :, down, across]
    return patches
