"""NF4: a matrix as 4-bit codes of normal quantiles with a scale per 64 values (Dettmers et al. 2023, QLoRA, §3).

The scales are float32, or quantized themselves ("double quantization"). Codes, scales and what they stand for are those
of bitsandbytes 0.50 on x86-64 CPUs, bit for bit; it is not imported.

The tensors of a packed matrix of n values, b = ceil(n / 64) blocks, in this order:

    codes    uint8    (ceil(n / 2),)   two a byte, the earlier value in the high half
    scales   float32  (b,)             the largest magnitude of each block

or, doubly quantized, with a scale of ``DYNAMIC_MAP[scale code] × nested scale + offset``:

    codes    uint8    (ceil(n / 2),)   as above
    scales   uint8    (b,)             codes into DYNAMIC_MAP
    nested   float32  (ceil(b / 256),) one for 256 scales
    offset   float32  (1,)             the mean of the scales
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fieldtune.errors import UnsupportedModel, listed

BLOCK = 64
"""Values, in the order of rows, that share a scale."""
NESTED_BLOCK = 256
"""Scales that share a nested scale."""

# Quantiles of the standard normal distribution scaled to [-1, 1], with an exact zero (QLoRA, appendix E); the nine
# digits name one float32.
_NEGATIVE = (1.0, 0.696192801, 0.525073051, 0.394917488, 0.284441382, 0.184773430, 0.0910500363)
_POSITIVE = (0.0795802996, 0.160930201, 0.246112302, 0.337915242, 0.440709829, 0.562617004, 0.722956836, 1.0)
CODEBOOK = torch.tensor([*(-value for value in _NEGATIVE), 0.0, *_POSITIVE], dtype=torch.float32)
"""What the 16 codes stand for, rising: float32 (16,)."""
_PAIRS = torch.stack((CODEBOOK.repeat_interleave(16), CODEBOOK.repeat(16)), -1)
"""What a byte of two codes stands for."""

# What bitsandbytes packs with, without its 32: two such blocks in one of ours would have to share a scale.
_THEIR_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
# Below it bitsandbytes divides by it instead, so that a block of zeros has no NaN.
_LEAST_SCALE = 1e-38
# bitsandbytes looks the code of a scale up by its place among so many in [-1, 1]: near 0 that is coarser than the map.
_PLACES = 65536
# Maps are made by torch.linspace, whose last bits vary by processor.
_MAP_TOLERANCE = 1e-6


def _dynamic_map() -> torch.Tensor:
    """Make the signed dynamic map of 8 bits: 2^i fractions of the decade up to 10^(i - 6), of either sign, 0 and 1.

    Source: Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning", §2.1.
    """
    low, high = torch.tensor([0.1, 1.0])
    values = [torch.tensor([0.0, 1.0])]
    for i in range(7):
        count = 2**i
        # The bounds of the fractions, counted from the nearer end, in float32 with one rounding (a fused multiply-add):
        # double precision holds the products, and no processor's own torch.linspace decides on a last bit.
        step = ((high - low) / count).double()
        index = torch.arange(count + 1, dtype=torch.float64)
        bounds = torch.where(index < (count + 1) // 2, low + step * index, high - step * (count - index)).float()
        middles = (bounds[:-1] + bounds[1:]) / 2 * 10.0 ** (i - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values


DYNAMIC_MAP = _dynamic_map()
"""What the 256 codes of doubly quantized scales stand for, rising: float32 (256,)."""


@functools.cache
def _codes_of_places() -> torch.Tensor:
    places = -1 + 2 * torch.arange(_PLACES, dtype=torch.float32) / (_PLACES - 1)
    return torch.bucketize(places, (DYNAMIC_MAP[:-1] + DYNAMIC_MAP[1:]) / 2).to(torch.uint8)


def part_layout(size: int, *, double: bool) -> tuple[tuple[torch.dtype, int], ...]:
    """Return dtype and length of each tensor that a matrix of so many values is packed into."""
    blocks = -(-size // BLOCK)
    codes = (torch.uint8, -(-size // 2))
    if not double:
        return codes, (torch.float32, blocks)
    return codes, (torch.uint8, blocks), (torch.float32, -(-blocks // NESTED_BLOCK)), (torch.float32, 1)


def quantize(matrix: torch.Tensor, *, double: bool) -> tuple[torch.Tensor, ...]:
    """Pack a matrix, as ``bitsandbytes.functional.quantize_4bit`` does on a CPU.

    The offset of doubly quantized scales is torch's mean of float32, which adds in an order that depends on processor
    and threads: its last bits, and with them a few codes of scales, may differ between machines.

    Args:
        matrix: float32, of any shape; blocks go over its values in the order of rows. float16 and bfloat16, cast,
            give what bitsandbytes makes of them.
        double: whether the scales are quantized, too.

    Returns:
        The tensors that the module's docstring names: 2, or with ``double`` 4.

    Raises:
        ValueError: not float32, empty, or with values that are no finite numbers.
    """
    if matrix.dtype != torch.float32 or not matrix.numel():
        raise ValueError(f"a matrix of {matrix.dtype} and shape {tuple(matrix.shape)}; expected float32, not empty")
    if not matrix.isfinite().all():
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} has values that are no finite numbers")
    flat = matrix.detach().reshape(-1)
    whole = flat.numel() // BLOCK * BLOCK
    blocks, rest = flat[:whole].reshape(-1, BLOCK), flat[whole:]
    scales = blocks.abs().amax(dim=1)
    # Times the reciprocal, which is not always the quotient: values between two codes go where bitsandbytes has them.
    scaled = (blocks * (1.0 / scales.clamp(min=_LEAST_SCALE)).unsqueeze(1)).reshape(-1)
    if rest.numel():  # bitsandbytes divides here, and keeps the scale that it divides by
        last = rest.abs().amax().clamp(min=_LEAST_SCALE)
        scales, scaled = torch.cat([scales, last.unsqueeze(0)]), torch.cat([scaled, rest / last])
    if scaled.numel() % 2:
        scaled = torch.cat([scaled, scaled.new_zeros(1)])
    codes = torch.bucketize(scaled, (CODEBOOK[:-1] + CODEBOOK[1:]) / 2, out_int32=True).to(torch.uint8)
    packed = codes[::2] << 4 | codes[1::2]
    return (packed, *_quantize_scales(scales)) if double else (packed, scales)


def _quantize_scales(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    offset = scales.mean()
    spare = -scales.numel() % NESTED_BLOCK
    blocks = torch.nn.functional.pad(scales - offset, (0, spare)).reshape(-1, NESTED_BLOCK)
    nested = blocks.abs().amax(dim=1)
    # A block of zeros is 0 × ∞ throughout and gets code 0, which stands for 0 there: its nested scale is 0.
    scaled = (blocks * (1.0 / nested).unsqueeze(1)).clamp(-1, 1).nan_to_num(nan=-1.0)
    places = ((scaled + 1) * 0.5 * (_PLACES - 1) + 0.5).to(torch.int32)
    return _codes_of_places()[places.reshape(-1)[: scales.numel()]], nested, offset.unsqueeze(0)


def scales_of(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the scale of each block, float32 (b,), of the tensors of a packed matrix."""
    if len(parts) == 2:
        return parts[1]
    _, codes, nested, offset = parts
    # Rounded twice, as bitsandbytes does it: a fused multiply-add would give other last bits.
    return DYNAMIC_MAP[codes.int()] * nested.repeat_interleave(NESTED_BLOCK)[: codes.numel()] + offset


def dequantize(parts: Sequence[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
    """Return the float32 matrix (rows, columns) that packed tensors stand for.

    It is what ``bitsandbytes.functional.dequantize_4bit`` gives for a matrix that was float32; for one that was float16
    or bfloat16, bitsandbytes rounds the same values to that type, denormal bfloat16 on some processors to zero. With
    AVX-512, its 0.50 scales whole blocks wrongly where columns are a multiple of 16 and none of 64; not so here.

    Raises:
        ValueError: the tensors are not of a matrix of that size.
    """
    size = rows * columns
    found = tuple((part.dtype, part.numel()) for part in parts)
    if found != (expected := part_layout(size, double=len(parts) != 2)):
        raise ValueError(f"the parts of a matrix ({rows}, {columns}) are {found}; expected {expected}")
    values = _PAIRS.index_select(0, parts[0].int()).reshape(-1)[:size]
    scales, whole = scales_of(parts), size // BLOCK * BLOCK
    values[:whole].reshape(-1, BLOCK).mul_(scales[: whole // BLOCK, None])
    values[whole:].mul_(scales[-1])
    return values.reshape(rows, columns)


def read_bitsandbytes(
    tensors: Mapping[str, torch.Tensor], name: str
) -> tuple[tuple[torch.Tensor, ...], tuple[int, int]]:
    """Return the packed tensors and the shape of a matrix in a checkpoint that bitsandbytes wrote.

    Larger blocks than 64 become blocks of 64 with the same scales; nothing is rounded.

    Args:
        tensors: of the checkpoint, by name.
        name: of the weight, such as ``model.layers.0.self_attn.q_proj.weight``; the tensors beside it have names that
            begin with it.

    Raises:
        UnsupportedModel: not NF4, another layout or map, a wrong length, or a scale that is no finite number; every
            fault found is listed.
    """
    state = _quant_state(tensors, name)
    rows, columns, block = _settings(state, name)
    double = "nested_blocksize" in state or f"{name}.nested_absmax" in tensors
    size, theirs = rows * columns, -(-rows * columns // block)
    faults = [
        *(_nested_faults(state, name) if double else []),
        *_packed_faults(tensors, name, -(-size // 2)),
        *_scale_faults(tensors, f"{name}.absmax", torch.uint8 if double else torch.float32, theirs),
        *_map_faults(tensors, f"{name}.quant_map", CODEBOOK),
    ]
    if double:
        faults += _scale_faults(tensors, f"{name}.nested_absmax", torch.float32, -(-theirs // NESTED_BLOCK))
        faults += _map_faults(tensors, f"{name}.nested_quant_map", DYNAMIC_MAP)
    if faults:
        raise _refusal(name, faults)
    repeats, layout = block // BLOCK, part_layout(size, double=double)
    # Weights that are sharded as float32 or bfloat16 (bnb_4bit_quant_storage) are the same bytes.
    codes = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8)
    parts = [codes, tensors[f"{name}.absmax"].detach().reshape(-1).repeat_interleave(repeats)[: layout[1][1]]]
    if double:
        nested = tensors[f"{name}.nested_absmax"].detach().reshape(-1)
        parts += [nested.repeat_interleave(repeats)[: layout[2][1]], torch.tensor([float(state["nested_offset"])])]
    return tuple(parts), (rows, columns)


def _refusal(name: str, faults: Sequence[str]) -> UnsupportedModel:
    return UnsupportedModel(
        f"{name}: bitsandbytes has packed it in a way that cannot be read; take the model that is not quantized, or "
        f"quantize that again with load_in_4bit and bnb_4bit_quant_type='nf4':{listed(faults)}"
    )


def _quant_state(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, Any]:
    """Return the settings that bitsandbytes keeps as JSON in a tensor of bytes."""
    key = f"{name}.quant_state.bitsandbytes__nf4"
    if key not in tensors:
        others = [other for other in tensors if other.startswith(f"{name}.quant_state.")]
        raise _refusal(name, [f"{key} is missing; found {', '.join(others) or 'no other settings'}"])
    try:
        if tensors[key].dtype != torch.uint8:
            raise ValueError(f"{tensors[key].dtype}, expected torch.uint8")
        state = json.loads(bytes(tensors[key].reshape(-1).tolist()))
    except (ValueError, RecursionError) as error:
        raise _refusal(name, [f"{key} holds no settings in JSON: {error}"]) from error
    if not isinstance(state, dict):
        raise _refusal(name, [f"{key} holds a {type(state).__name__} in JSON, expected an object of settings"])
    return state


def _settings(state: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    """Return rows, columns and the size of a block."""
    key = f"{name}.quant_state.bitsandbytes__nf4"
    kind, block, shape = state.get("quant_type"), state.get("blocksize"), state.get("shape")
    faults: list[str] = []
    if kind != "nf4":
        faults.append(f"{key}: quant_type is {kind!r}, expected 'nf4'")
    if type(block) is not int or block not in _THEIR_BLOCKS:
        faults.append(f"{key}: blocksize is {block!r}, expected one of {', '.join(map(str, _THEIR_BLOCKS))}")
    if type(shape) is not list or len(shape) != 2 or any(type(side) is not int or side < 1 for side in shape):
        faults.append(f"{key}: shape is {shape!r}, expected [rows, columns]")
    if faults:
        raise _refusal(name, faults)
    assert isinstance(block, int)
    assert isinstance(shape, list)
    return shape[0], shape[1], block


def _nested_faults(state: Mapping[str, Any], name: str) -> list[str]:
    key = f"{name}.quant_state.bitsandbytes__nf4"
    expected = {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
    faults = [
        f"{key}: {setting} is {state.get(setting)!r}, expected {value!r}"
        for setting, value in expected.items()
        if state.get(setting) != value
    ]
    offset = state.get("nested_offset")
    # Compared, not converted: JSON has integers that no float holds. The comparison is false for NaN, too.
    finite = isinstance(offset, int | float) and abs(offset) <= torch.finfo(torch.float32).max
    if not finite:
        faults.append(f"{key}: nested_offset is {offset!r}, expected a finite number")
    return faults


def _packed_faults(tensors: Mapping[str, torch.Tensor], key: str, length: int) -> list[str]:
    if key not in tensors:
        return [f"{key} is missing"]
    found = tensors[key].numel() * tensors[key].element_size()
    return [] if found == length else [f"{key} has {found} bytes, expected {length}"]


def _scale_faults(tensors: Mapping[str, torch.Tensor], key: str, dtype: torch.dtype, length: int) -> list[str]:
    if key not in tensors:
        return [f"{key} is missing"]
    scales = tensors[key]
    if (scales.dtype, scales.numel()) != (dtype, length):
        return [f"{key} has {scales.numel()} values of {scales.dtype}, expected {length} of {dtype}"]
    return [] if scales.isfinite().all() else [f"{key} has values that are no finite numbers"]


def _map_faults(tensors: Mapping[str, torch.Tensor], key: str, expected: torch.Tensor) -> list[str]:
    if key not in tensors:
        return [f"{key} is missing"]
    found = tensors[key].reshape(-1)
    if found.numel() != expected.numel() or not torch.allclose(found.float(), expected, rtol=_MAP_TOLERANCE, atol=0):
        kind = "NF4's" if expected is CODEBOOK else "the signed dynamic one"
        return [f"{key} has {found.numel()} values that are not those of {kind}"]
    return []
