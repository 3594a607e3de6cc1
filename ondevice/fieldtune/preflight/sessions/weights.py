"""How often a session holds its weights: mapped from the bundle's file, packed for the kernels, copied by a fusion.

Measured with ONNX Runtime 1.16.3, 1.23.2 and 1.31.1 on x86-64 (``docs/benchmarks.md``):

1. A weight that a kernel reads as it is stays mapped: its pages count once for each session that reads them.
2. With prepacking, every product with a constant matrix on its right, and every transposed convolution, keeps a copy of
   its own; a matrix that all of its readers have packed is no longer mapped.
3. What has a default and can be fed, as the parts of packed matrices, is no constant, and always mapped: twice where it
   has two names.
4. What is computed from weights when the graph is loaded is a copy. A product of integers packs it in its place, a
   product that unpacks codes packs these: both in as many bytes.
5. The weights of a convolution are copies where the graph was rewritten: with a BatchNormalization folded into them, or
   into the blocked order that the CPU provider prefers (level ``all``, not on 64-bit ARM).
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from fieldtune.bundle import NodeTable, Value, tensor_bytes
from fieldtune.hardware import Architecture, GraphOptimization
from fieldtune.preflight.sessions.runtime_graph import Step

_PRODUCTS = ("FusedMatMul", "Gemm", "MatMul")
_PACKED_COLUMNS = 16  # MLAS packs the columns of a matrix in panels of 16 floats
_BITS = "MatMulNBits"
_RIGHT = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WeightMemory:
    """Of one session.

    Attributes:
        mapped_bytes: read where they lie in the bundle's file; the system can drop them and read them again.
        packed_bytes: copies in the order that the kernels like.
        copied_bytes: weights that are no longer those of the file.
    """

    mapped_bytes: int
    packed_bytes: int
    copied_bytes: int


def weight_memory(
    table: NodeTable,
    steps: Sequence[Step],
    *,
    fed: Collection[str],
    prepacking: bool,
    optimization: GraphOptimization,
    architecture: Architecture,
) -> WeightMemory:
    """Return what a session holds of its weights.

    Args:
        table: of the graph.
        steps: that read the weights.
        fed: initializers that are fed in every run: an adapter's, which have defaults.
        prepacking: whether kernels keep packed copies.
        optimization: how far the graph is rewritten when it is loaded.
        architecture: of the processor; ``any`` counts as x86-64.
    """
    replaceable = set(table.inputs)
    readers: dict[str, list[tuple[Step, int]]] = defaultdict(list)
    for step in steps:
        for position, name in enumerate(step.inputs):
            readers[name].append((step, position))
    blocked = optimization == "all" and architecture != "aarch64"
    mapped = packed = copied = 0
    for name in table.initializers:
        value, reading = table.values[name], readers[name]
        if not reading or name in fed or value.constant_bytes is None:
            continue
        copies = sum(step.rewritten or (blocked and step.op == "Conv") for step, _ in reading)
        constant = prepacking and name not in replaceable
        packs = sum(_packs(value, *reader) for reader in reading) if constant else 0
        packed += packs * _packed_bytes(value)
        # The copy that a fusion makes is copied once more into the session, and its place stays with the process.
        copied += 2 * copies * value.constant_bytes
        mapped += value.constant_bytes if copies + packs < len(reading) else 0
    for name in _folded(table, steps):
        copied += tensor_bytes(table.values[name])
    return WeightMemory(mapped_bytes=mapped, packed_bytes=packed, copied_bytes=copied)


def _folded(table: NodeTable, steps: Sequence[Step]) -> set[str]:
    """Return what was computed from weights alone when the graph was loaded, and is still read."""
    written = {name for step in steps for name in step.outputs}
    return {name for step in steps for name in step.reads} - written - {*table.inputs, *table.initializers}


def _packs(value: Value, step: Step, position: int) -> bool:
    if step.rewritten or position != _RIGHT:
        return False
    if step.op == _BITS:
        return True
    if value.dtype != "float32":
        return False
    return step.op == "ConvTranspose" or (step.op in _PRODUCTS and len(value.shape) == 2)


def _packed_bytes(value: Value) -> int:
    assert value.constant_bytes is not None
    if len(value.shape) != 2 or value.dtype != "float32":
        return value.constant_bytes
    # Which side is the columns depends on transB; panels are small beside both.
    sides = [side for side in value.shape if isinstance(side, int)]
    rounded = -(-sides[0] // _PACKED_COLUMNS) * _PACKED_COLUMNS
    return value.constant_bytes // max(sides[0], 1) * rounded if math.prod(sides) else 0
