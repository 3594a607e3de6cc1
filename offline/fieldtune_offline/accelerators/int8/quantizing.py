"""quantize: a float32 graph becomes an INT8 one that an accelerator's compiler takes."""

import dataclasses
import importlib.metadata
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from fieldtune.bundle import NodeTable
from fieldtune.errors import ExportError, UnsupportedModel
from fieldtune.hardware import Accelerator
from fieldtune.placement import trace
from fieldtune_offline.accelerators.int8.adjustment import adjust_weights
from fieldtune_offline.accelerators.int8.calibration import Feeds, channel_ranges, regroup, sample_tensors
from fieldtune_offline.accelerators.int8.equalization import equalize, find_places
from fieldtune_offline.accelerators.int8.insertion import insert_quantization
from fieldtune_offline.accelerators.int8.opsets import set_opset
from fieldtune_offline.accelerators.int8.positions import (
    Positions,
    Product,
    Sample,
    ShiftLimits,
    choose_positions,
    refine,
)
from fieldtune_offline.accelerators.int8.regions import accelerated_nodes
from fieldtune_offline.accelerators.int8.scheme import Scheme, quantization_scheme
from fieldtune_offline.accelerators.int8.static import finish, static_model
from fieldtune_offline.node_table import table_of
from fieldtune_offline.progress import Report

ADJUSTED_EXAMPLES = 64
"""Of the calibration examples, how many weights are adjusted on: more cost time and memory and gain little."""
ADJUSTED_PLACES = 1 << 14
"""At how many places a product or convolution has results in these examples, or more examples are taken: an image has
thousands, a text of 64 tokens has 64, and weights that are fitted to few fit those alone."""
_ANY_POSITION = 7
"""Of every tensor of a graph that is planned only: no rule is against shifts of 7 bits, or none, everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """A graph for an accelerator.

    Attributes:
        model: INT8, with QuantizeLinear and DequantizeLinear; every shape is static, the weights are in it.
        reference: the same graph in float32, as it was quantized: static, simplified, and with the scales of channels.
        quantizer: name and version of what quantized it.
        examples: how many were calibrated on.
    """

    model: ir.Model
    reference: ir.Model
    quantizer: str
    examples: int


class Quantize(Protocol):
    """What quantizes a graph: ``quantize``, or another function that takes and gives the same."""

    def __call__(
        self,
        model: ir.Model | Path,
        accelerator: Accelerator,
        feeds: Iterable[Feeds],
        *,
        batch: int | None = None,
        report: Report = lambda _: None,
    ) -> Quantized:
        """Quantize a graph."""
        ...


def quantize(
    model: ir.Model | Path,
    accelerator: Accelerator,
    feeds: Iterable[Feeds],
    *,
    batch: int | None = None,
    report: Report = lambda _: None,
) -> Quantized:
    """Quantize a graph as an accelerator asks for: eight bits, symmetric, one power of two to scale each tensor.

    What the accelerator would leave to the CPU stays in float32. Channels of products that stand alone between
    operators of the CPU are brought to even ranges first, which changes nothing in float32. Positions are those of the
    least mean squared error, made coarser where the accelerator's shifts ask for it; then weights and biases are
    adjusted to what quantization did before them, and QuantizeLinear and DequantizeLinear are put in by ONNX Runtime's
    quantizer.

    Args:
        model: float32, or its file. Its first input dimension is the batch.
        accelerator: of a profile.
        feeds: calibration examples: input name → array with any number of rows; all other dimensions become those
            of the first ones.
        batch: samples in a run; the accelerator's own if None.
        report: called with one line at the start of each stage.

    Raises:
        ExportError: no examples.
        UnsupportedModel: a size that is unknown before it runs, or an operator that the accelerator's opsets lack.
    """
    source = model if isinstance(model, ir.Model) else ir.load(model)
    static, batches, examples = static_graph(source, accelerator, feeds, batch)
    scheme = _equalized(static, accelerator, batches)
    report(f"calibrating {len(scheme.activations)} tensors on {examples} examples")
    positions = _positions(static, scheme, accelerator, batches)
    report(f"adjusting {len(scheme.weights)} weights")
    few = batches[: _adjusted_batches(static, scheme, len(next(iter(batches[0].values()))))]
    adjusted = static.clone()
    for name, array in adjust_weights(static, scheme, positions, few).items():
        adjusted.graph.initializers[name].const_value = ir.tensor(array, name=name)
    quantized = insert_quantization(adjusted, scheme, positions, accelerator)
    finish(quantized)
    version = importlib.metadata.version("onnxruntime")
    return Quantized(model=quantized, reference=static, quantizer=f"onnxruntime {version}", examples=examples)


def planned_table(model: Path, accelerator: Accelerator) -> NodeTable:
    """Return the node table that ``quantize`` would give, but for its scales, which examples decide.

    Args:
        model: file of the float32 graph, of which no dimension but the batch may vary.
        accelerator: of a profile.

    Raises:
        UnsupportedModel: as ``quantize``.
    """
    source = ir.load(model)
    batch = source.graph.inputs[0].shape
    assert batch is not None
    static = static_model(source, {str(dim.value): accelerator.batch for dim in batch[:1] if not isinstance(dim, int)})
    set_opset(static, accelerator)
    scheme = _equalized(static, accelerator, ())
    alike = dict.fromkeys((*scheme.activations, *scheme.weights), _ANY_POSITION)
    quantized = insert_quantization(static, scheme, alike, accelerator)
    finish(quantized)
    return table_of(quantized)


def static_graph(
    source: ir.Model, accelerator: Accelerator, feeds: Iterable[Feeds], batch: int | None
) -> tuple[ir.Model, Sequence[Feeds], int]:
    """Return a graph with the accelerator's batch and opset, calibration batches of that size, and how many examples.

    Raises:
        ExportError: no examples.
        UnsupportedModel: a size that is unknown before it runs, or an operator that the accelerator's opsets lack.
    """
    names = [str(value.name) for value in source.graph.inputs]
    given = [{name: np.asarray(each[name]) for name in names} for each in feeds]
    examples = sum(len(each[names[0]]) for each in given)
    if not examples:
        raise ExportError("there are no calibration examples; an INT8 graph needs some to find its ranges")
    batches = list(regroup(given, batch or accelerator.batch))
    sizes: dict[str, int] = {}
    for value in source.graph.inputs:
        shape = batches[0][str(value.name)].shape
        if value.shape is None or len(value.shape) != len(shape):
            raise UnsupportedModel(f"input {value.name}: {value.shape}, and the examples are of shape {shape}")
        sizes |= {
            str(dim.value): size for dim, size in zip(value.shape, shape, strict=True) if not isinstance(dim, int)
        }
    static = static_model(source, sizes)
    set_opset(static, accelerator)
    return static, batches, examples


def _equalized(static: ir.Model, accelerator: Accelerator, batches: Sequence[Feeds]) -> Scheme:
    """Bring channels to even ranges, without examples to scales of 1; return what of the graph is quantized then."""
    flow = trace(table_of(static))
    places = find_places(flow, accelerated_nodes(flow, accelerator))
    if places.tensors:
        equalize(static, places, channel_ranges(static, places.tensors, batches))
        flow = trace(table_of(static))
    return quantization_scheme(flow, accelerated_nodes(flow, accelerator))


def _adjusted_batches(static: ir.Model, scheme: Scheme, batch: int) -> int:
    """Return how many batches give enough examples, and enough places, to adjust weights on."""
    values = ir.convenience.create_value_mapping(static.graph)
    places = 1
    for binding in scheme.bindings:
        if isinstance(binding, Product):
            result, weight = values[binding.result].shape, values[binding.weight].shape
            assert result is not None
            assert weight is not None
            sizes = result.numpy()
            places = max(places, math.prod(sizes) // sizes[1 if len(weight) == 4 else -1])
    return max(1, ADJUSTED_EXAMPLES // batch, -(-ADJUSTED_PLACES // places))


def _positions(static: ir.Model, scheme: Scheme, accelerator: Accelerator, batches: Sequence[Feeds]) -> Positions:
    samples = dict(sample_tensors(static, scheme.activations, batches))
    for name in scheme.weights:
        constant = static.graph.initializers[name].const_value
        assert constant is not None
        values = constant.numpy().reshape(-1).astype(np.float32)
        samples[name] = Sample(values, float(np.abs(values).max(initial=0)))
    chosen = choose_positions(samples, scheme.bindings)
    return refine(chosen, scheme.bindings, ShiftLimits.of(accelerator.limits))
