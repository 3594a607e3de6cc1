"""NF4 beside bitsandbytes, bit for bit; and what is read of the checkpoints that it writes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.precisions.nf4_codec import (
    CODEBOOK,
    DYNAMIC_MAP,
    dequantize,
    part_layout,
    quantize,
    read_bitsandbytes,
    scales_of,
)
from nf4_reference import bit_equal, bitsandbytes, checkpoint, needs_bitsandbytes, pack, unpack

DOUBLE = pytest.mark.parametrize("double", [False, True], ids=["scales", "double"])
NAME = "model.layers.0.q_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"


def normal(*shape, seed=0, power=1.0, scale=0.02):
    """Normal values, with heavy tails for powers above 1."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.sign() * values.abs() ** power * scale


def assert_same_bits(matrix, *, double):
    ours, theirs = quantize(matrix.float(), double=double), pack(matrix, double=double)
    assert [part.dtype for part in ours] == [part.dtype for part in theirs]
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert tuple((part.dtype, part.numel()) for part in ours) == part_layout(matrix.numel(), double=double)
    if matrix.numel() % 2 == 0:
        found = dequantize(ours, *matrix.shape).to(matrix.dtype)
        assert torch.equal(found, unpack(matrix, double=double))


# By hand


def test_codes_of_a_block_are_the_nearest_and_the_earlier_is_in_the_high_half():
    row = torch.zeros(1, 64)
    row[0, :5] = torch.tensor([-2.0, 2.0, 0.3, -0.3, 1.4])
    codes, scales = quantize(row, double=False)
    assert scales.tolist() == [2.0]
    # 0.15 is nearest to 0.1609 (9), -0.15 to -0.1848 (5), 0.7 to 0.7230 (14); zero is 7.
    assert codes.tolist() == [0x0F, 0x95, 0xE7, *[0x77] * 29]
    assert dequantize((codes, scales), 1, 64)[0, :5].tolist() == (2 * CODEBOOK[[0, 15, 9, 5, 14]]).tolist()


def test_doubly_quantized_scales_are_the_map_times_the_nested_scale_plus_the_mean():
    matrix = torch.zeros(4, 64)
    matrix[:, 0] = torch.tensor([1.0, 2.0, 3.0, 6.0])
    _, codes, nested, offset = parts = quantize(matrix, double=True)
    assert (nested.tolist(), offset.tolist()) == ([3.0], [3.0])
    assert codes.tolist()[3] == 255
    assert codes.tolist()[2] != 127  # as bitsandbytes has it, whose places are coarser than the map near 0
    assert torch.allclose(scales_of(parts), torch.tensor([1.0, 2.0, 3.0, 6.0]), atol=0.05)
    assert torch.equal(dequantize(parts, 4, 64)[:, 0], scales_of(parts))


def test_maps_rise_and_have_a_zero():
    for values, zero, least in ((CODEBOOK, 7, -1.0), (DYNAMIC_MAP, 127, -0.99296875)):
        assert bool((values.diff() > 0).all())
        assert (values[zero], values[-1], values[0]) == (0.0, 1.0, pytest.approx(least))


@DOUBLE
def test_all_zeros_stay_zeros_and_one_block_keeps_its_scale(double):
    zeros = quantize(torch.zeros(3, 64), double=double)
    assert not dequantize(zeros, 3, 64).any()
    one = quantize(normal(1, 64), double=double)
    assert torch.equal(scales_of(one), normal(1, 64).abs().amax(dim=1))


@DOUBLE
def test_no_value_moves_by_more_than_half_of_the_widest_gap(double):
    matrix = normal(64, 192)
    moved = (dequantize(quantize(matrix, double=double), 64, 192) - matrix).abs().reshape(-1, 64)
    bound = matrix.abs().reshape(-1, 64).amax(dim=1, keepdim=True) * CODEBOOK.diff().max() / 2
    assert bool((moved <= bound * (1.1 if double else 1.000001)).all())


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        (torch.zeros(2, 64, dtype=torch.bfloat16), r"torch\.bfloat16 and shape \(2, 64\); expected float32"),
        (torch.zeros(0, 64), "not empty"),
        (torch.full((2, 64), torch.nan), r"shape \(2, 64\) has values that are no finite numbers"),
        (torch.full((2, 64), torch.inf), "no finite numbers"),
    ],
    ids=["bfloat16", "empty", "nan", "inf"],
)
def test_what_cannot_be_packed_is_an_error(matrix, why):
    with pytest.raises(ValueError, match=why):
        quantize(matrix, double=False)


def test_parts_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"the parts of a matrix \(2, 128\) are"):
        dequantize(quantize(normal(2, 64), double=True), 2, 128)


# Beside bitsandbytes


@needs_bitsandbytes
@bit_equal
def test_maps_are_those_of_bitsandbytes():
    functional = bitsandbytes().functional
    assert torch.equal(functional.get_4bit_type("nf4", device="cpu"), CODEBOOK)
    assert torch.equal(functional.create_dynamic_map(), DYNAMIC_MAP)


SHAPES = [(1, 2), (1, 63), (1, 64), (1, 65), (7, 9), (3, 50), (5, 96), (256, 64), (257, 64), (511, 128), (1536, 384)]


@needs_bitsandbytes
@bit_equal
@DOUBLE
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_has_the_bits_of_bitsandbytes(shape, double):
    for seed, power in enumerate((1.0, 3.0, 6.0)):
        assert_same_bits(normal(*shape, seed=seed, power=power), double=double)


@needs_bitsandbytes
@bit_equal
@DOUBLE
def test_many_seeds_and_magnitudes_have_the_bits_of_bitsandbytes(double):
    for seed in range(100):
        assert_same_bits(normal(64, 128, seed=seed, scale=10.0 ** (seed % 9 - 6)), double=double)


@needs_bitsandbytes
@bit_equal
@DOUBLE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precisions_have_the_bits_of_bitsandbytes_when_rounded_to_them(dtype, double):
    assert_same_bits(normal(96, 320, power=2.0).to(dtype), double=double)


@needs_bitsandbytes
@bit_equal
@DOUBLE
@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0, 0.1, 1e-3, 1e-39])
def test_values_between_two_codes_go_where_bitsandbytes_has_them(scale, double):
    middles = (CODEBOOK[:-1] + CODEBOOK[1:]) / 2
    near = [torch.nextafter(middles, torch.tensor(end)) for end in (-2.0, 2.0)]
    values = torch.cat([torch.tensor([1.0]), middles, *near, CODEBOOK, torch.tensor([-0.0, 0.0])])
    assert values.numel() == 64
    assert_same_bits(torch.stack([values, -values, values.flip(0)]) * scale, double=double)
    assert_same_bits(values[None, 1:51] * scale, double=double)  # fewer than a block: divided, not multiplied


@needs_bitsandbytes
@bit_equal
@DOUBLE
def test_zeros_of_either_sign_and_denormal_values_have_the_bits_of_bitsandbytes(double):
    for matrix in (
        torch.zeros(4, 64),
        torch.full((4, 64), -0.0),
        torch.zeros(1, 10),
        torch.cat([torch.zeros(3, 64), normal(2, 64), torch.full((1, 64), -0.0)]),
        normal(300, 64, scale=1e-38),
        normal(300, 64, scale=1e-42),
        torch.full((2, 64), 3e38) * torch.tensor([[1.0], [-1.0]]) / 2,
    ):
        assert_same_bits(matrix, double=double)


@needs_bitsandbytes
@bit_equal
def test_scales_of_every_magnitude_have_the_codes_of_bitsandbytes():
    """Scales that lie around their mean as finely as the map divides, and on the bounds of its codes."""
    bounds = (DYNAMIC_MAP[:-1] + DYNAMIC_MAP[1:]) / 2
    near = [bounds + step * 2.0**-24 for step in range(-3, 4)]
    for seed in range(3):
        fine = torch.cat([*near, DYNAMIC_MAP, normal(2000, seed=seed, power=12.0)])
        order = torch.randperm(fine.numel(), generator=torch.Generator().manual_seed(seed))
        scales = 2.0 + fine[order].clamp(-1, 1)
        assert_same_bits(scales.unsqueeze(1).repeat(1, 64), double=True)


# Checkpoints


@needs_bitsandbytes
@bit_equal
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@DOUBLE
def test_a_checkpoint_reads_as_what_bitsandbytes_makes_of_it(tmp_path, double, dtype):
    matrix = normal(96, 192).to(dtype)
    save_file(checkpoint(NAME, matrix, compress_statistics=double), tmp_path / "model.safetensors")
    parts, shape = read_bitsandbytes(load_file(tmp_path / "model.safetensors"), NAME)
    assert shape == (96, 192)
    assert tuple((part.dtype, part.numel()) for part in parts) == part_layout(matrix.numel(), double=double)
    assert torch.equal(dequantize(parts, *shape).to(dtype), unpack(matrix, double=double))


@needs_bitsandbytes
@bit_equal
def test_a_layer_of_bitsandbytes_reads_as_what_it_computes_with():
    module = bitsandbytes()
    layer = module.nn.Linear4bit(128, 64, bias=False, quant_type="nf4")
    layer.weight = module.nn.Params4bit(normal(64, 128), requires_grad=False, quant_type="nf4")
    tensors = layer.to("cpu").state_dict(prefix="proj.")
    parts, shape = read_bitsandbytes(tensors, "proj.weight")
    assert torch.equal(dequantize(parts, *shape), unpack(normal(64, 128), double=True))


@needs_bitsandbytes
@bit_equal
@DOUBLE
@pytest.mark.parametrize("block", [128, 1024, 4096])
def test_larger_blocks_become_blocks_of_64_with_the_same_values(block, double):
    matrix = normal(257, 512, power=2.0)
    tensors = checkpoint(NAME, matrix, blocksize=block, compress_statistics=double)
    parts, shape = read_bitsandbytes(tensors, NAME)
    functional = bitsandbytes().functional
    codes, state = functional.quantize_4bit(
        matrix.reshape(1, -1), blocksize=block, compress_statistics=double, quant_type="nf4"
    )
    assert torch.equal(dequantize(parts, *shape), functional.dequantize_4bit(codes, state).reshape(shape))


@needs_bitsandbytes
@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32], ids=str)
def test_codes_that_are_stored_as_another_type_are_the_same_bytes(storage):
    parts, _ = read_bitsandbytes(checkpoint(NAME, normal(8, 64), quant_storage=storage), NAME)
    assert torch.equal(parts[0], quantize(normal(8, 64), double=False)[0])


def with_settings(tensors, **changed):
    state = json.loads(bytes(tensors[STATE].tolist())) | changed
    return tensors | {STATE: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


def with_value(tensors, key, value):
    changed = tensors[key].clone()
    changed.reshape(-1)[0] = value
    return tensors | {key: changed}


def without(tensors, key):
    return {name: tensor for name, tensor in tensors.items() if name != key}


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: with_settings(t, quant_type="fp4"), "quant_type is 'fp4', expected 'nf4'"),
        (lambda t: with_settings(t, blocksize=32), "blocksize is 32, expected one of 64, 128"),
        (lambda t: with_settings(t, blocksize=True), "blocksize is True"),
        (lambda t: with_settings(t, shape=[4, 4, 4]), r"shape is \[4, 4, 4\], expected \[rows, columns\]"),
        (lambda t: with_settings(t, shape=[-96, -192]), r"shape is \[-96, -192\]"),
        (lambda t: with_settings(t, shape=[10**300, 10**300]), r"weight has 9216 bytes, expected 50000"),
        (lambda t: with_settings(t, nested_blocksize=512), "nested_blocksize is 512, expected 256"),
        (lambda t: with_settings(t, nested_dtype="float16"), "nested_dtype is 'float16', expected 'float32'"),
        (lambda t: with_settings(t, nested_offset=float("nan")), "nested_offset is nan, expected a finite number"),
        (lambda t: with_settings(t, nested_offset=10**400), "nested_offset is 1000"),
        (lambda t: with_settings(t, nested_offset=None), "nested_offset is None"),
        (lambda t: without(t, NAME), rf"- {NAME} is missing"),
        (lambda t: without(t, STATE), rf"{STATE} is missing; found no other settings"),
        (lambda t: without(t, f"{NAME}.absmax"), r"weight\.absmax is missing"),
        (lambda t: without(t, f"{NAME}.nested_absmax"), r"weight\.nested_absmax is missing"),
        (lambda t: without(t, f"{NAME}.quant_map"), r"weight\.quant_map is missing"),
        (lambda t: without(t, f"{NAME}.nested_quant_map"), r"weight\.nested_quant_map is missing"),
        (lambda t: t | {NAME: t[NAME][:-1]}, r"q_proj\.weight has 9215 bytes, expected 9216"),
        (
            lambda t: t | {f"{NAME}.absmax": t[f"{NAME}.absmax"].float()},
            r"absmax has 288 values of torch\.float32, expected 288 of torch\.uint8",
        ),
        (lambda t: t | {f"{NAME}.nested_absmax": torch.ones(3)}, "nested_absmax has 3 values of .*, expected 2 of"),
        (lambda t: with_value(t, f"{NAME}.nested_absmax", torch.inf), "nested_absmax has values that are no finite"),
        (lambda t: with_value(t, f"{NAME}.quant_map", -0.9), "quant_map has 16 values that are not those of NF4's"),
        (lambda t: with_value(t, f"{NAME}.nested_quant_map", -1.0), "256 values that are not those of the signed"),
        (lambda t: t | {STATE: torch.tensor([91], dtype=torch.uint8)}, "holds no settings in JSON: Expecting value"),
        (lambda t: t | {STATE: torch.tensor([255], dtype=torch.uint8)}, "holds no settings in JSON: 'utf-8'"),
        (lambda t: t | {STATE: torch.full((9**5,), 91, dtype=torch.uint8)}, "holds no settings in JSON: maximum"),
        (lambda t: t | {STATE: torch.tensor([91, 93], dtype=torch.uint8)}, "holds a list in JSON"),
        (lambda t: t | {STATE: torch.zeros(3)}, r"torch\.float32, expected torch\.uint8"),
    ],
)
def test_what_is_not_such_a_checkpoint_is_refused(change, why):
    tensors = change(checkpoint(NAME, normal(96, 192), compress_statistics=True))
    with pytest.raises(UnsupportedModel, match=why) as caught:
        read_bitsandbytes(tensors, NAME)
    assert str(caught.value).startswith(f"{NAME}: bitsandbytes has packed it in a way that cannot be read; take the")


@needs_bitsandbytes
def test_fp4_is_refused_by_name_and_all_faults_are_listed():
    with pytest.raises(UnsupportedModel, match=rf"found {NAME}\.quant_state\.bitsandbytes__fp4"):
        read_bitsandbytes(checkpoint(NAME, normal(96, 192), quant_type="fp4"), NAME)
    tensors = checkpoint(NAME, normal(96, 192))
    broken = with_value(tensors, f"{NAME}.absmax", torch.nan) | {f"{NAME}.quant_map": torch.zeros(16)}
    with pytest.raises(UnsupportedModel) as caught:
        read_bitsandbytes(without(broken, NAME), NAME)
    assert str(caught.value).count("\n  - ") == 3
