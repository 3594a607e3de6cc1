"""DoRA on the device: what it owns, and what is fed for a magnitude: m / ‖W + s · B A‖."""

import numpy as np
import pytest

from builders import (
    IN,
    OUT,
    QUERY,
    adapter,
    layout,
    lora_config,
    lora_parameter,
    manifest,
    parameter,
    stored,
    write_bundle,
)
from fieldtune.adapters.methods.dora import METHOD
from fieldtune.adapters.methods.table import method_of
from fieldtune.adapters.tensors import StoredTensor, TensorFile
from fieldtune.bundle.layout import BaseWeight, PackedWeight
from fieldtune.bundle.manifest import WEIGHTS_NAME
from fieldtune.bundle.precisions.interface import PackedPrecision
from fieldtune.errors import CorruptFile, InvalidAdapter, InvalidBundle, UnsupportedFormat

A, B, M = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight", f"{QUERY}.lora_magnitude_vector"
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((OUT, IN)).astype(np.float32)
PAIR = {A: RANDOM.standard_normal((2, IN)), B: RANDOM.standard_normal((OUT, 2))}
FAR = b'{"q.weight":{"dtype":"F32","shape":[1],"data_offsets":[99999999999999999999,0]}}'
MAGNITUDE = np.array([1, 2, 3, 4], np.float32)


@pytest.fixture
def bundle(tmp_path):
    """The function that makes a bundle whose weights file holds W, or something else."""

    def make(weight=WEIGHT, axes=("out_features", "in_features")):
        magnitude = parameter(
            M, {"out_features": OUT}, module="bert.query", decay=False, weight=BaseWeight(name="q.weight", axes=axes)
        )
        rows = [(A, "lora_a", "bert.query", (2, IN)), (B, "lora_b", "bert.query", (OUT, 2))]
        placed = layout(*(lora_parameter(*row) for row in rows), magnitude)
        weights = TensorFile(tensors={"q.weight": stored(weight)}, metadata={}).to_bytes()
        return write_bundle(tmp_path, manifest(method="dora", layout=placed), {WEIGHTS_NAME: weights})

    return make


def dora(**config):
    return adapter(lora_config(use_dora=True, lora_alpha=6, **config), {**PAIR, M: MAGNITUDE})


def lengths(weight, scale=3.0):
    return np.linalg.norm(weight.reshape(OUT, -1) + scale * PAIR[B] @ PAIR[A], axis=1)


def test_it_owns_what_asks_for_magnitudes():
    assert method_of(lora_config(use_dora=True)) is METHOD
    assert method_of(lora_config(use_dora=False)).name == "lora"
    assert not METHOD.owns({"peft_type": "IA3", "use_dora": True})


def test_what_lora_refuses_is_refused():
    assert METHOD.setting_faults(lora_config(use_dora=True)) == []
    pooled = lora_config(use_dora=True, use_qalora=True)
    assert METHOD.setting_faults(pooled) == ["use_qalora: QALoRA pools the input of A"]


def test_a_magnitude_is_fed_over_the_length_of_what_it_is_of(bundle):
    fed = METHOD.feeds(dora(), bundle())
    assert sorted(fed) == sorted([A, B, M])
    np.testing.assert_allclose(fed[M], MAGNITUDE / lengths(WEIGHT), rtol=1e-6)
    assert fed[M].dtype == np.float32
    np.testing.assert_allclose(fed[B], 3 * PAIR[B].T, rtol=1e-6)


def test_a_weight_that_is_stored_the_other_way_round(bundle):
    fed = METHOD.feeds(dora(), bundle(WEIGHT.T, ("in_features", "out_features")))
    np.testing.assert_allclose(fed[M], MAGNITUDE / lengths(WEIGHT), rtol=1e-6)


def test_padding_to_a_larger_rank_changes_no_length(bundle):
    fed = METHOD.feeds(dora(), bundle(), least_rank=5)
    assert fed[A].shape == (IN, 5)
    np.testing.assert_allclose(fed[M], MAGNITUDE / lengths(WEIGHT), rtol=1e-6)


def test_an_output_without_weights_stays_0(bundle):
    weight = np.zeros_like(WEIGHT)
    made = adapter(lora_config(use_dora=True), {**PAIR, B: np.zeros((OUT, 2)), M: MAGNITUDE})
    assert METHOD.feeds(made, bundle(weight))[M].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("axes", [("in_features", "more"), ("out_features",)])
def test_a_weight_whose_outputs_nobody_knows(bundle, axes):
    with pytest.raises(InvalidBundle, match=r"no axis of q\.weight \(.*\) is that of its outputs"):
        METHOD.feeds(dora(), bundle(axes=axes))


# An int8 matrix, and what it stands for.
CODES = RANDOM.integers(-127, 128, (OUT, IN)).astype(np.int8)
SCALES = np.float32([0.5, 0.25, 1, 0.125])
UNPACKED = CODES * SCALES[:, None]


@pytest.fixture
def packed(tmp_path):
    """The function that makes a bundle whose weights file holds an int8 matrix, or what is left of it."""

    def make(codes=CODES, scales=SCALES, recipe="int8", axes=("out_features", "in_features")):
        rows, columns = CODES.shape if axes[0] == "out_features" else CODES.T.shape
        weight = BaseWeight(name="q", axes=axes, packed=PackedWeight(recipe=recipe, rows=rows, columns=columns))
        magnitude = parameter(M, {"out_features": OUT}, module="bert.query", decay=False, weight=weight)
        pair = [(A, "lora_a", "bert.query", (2, IN)), (B, "lora_b", "bert.query", (OUT, 2))]
        placed = layout(*(lora_parameter(*row) for row in pair), magnitude)
        held = {
            "q.codes": StoredTensor(dtype="I8", shape=codes.shape, data=codes.tobytes()),
            "q.scales": stored(scales),
        }
        weights = TensorFile(tensors=held, metadata={}).to_bytes()
        return write_bundle(tmp_path, manifest(method="dora", layout=placed), {WEIGHTS_NAME: weights})

    return make


def test_the_length_is_that_of_what_a_packed_matrix_stands_for(packed):
    fed = METHOD.feeds(dora(), packed())
    np.testing.assert_allclose(fed[M], MAGNITUDE / lengths(UNPACKED), rtol=1e-6)


def test_of_an_embedding_each_column_has_a_length(packed):
    scales = np.arange(1, IN + 1, dtype=np.float32)
    codes = np.ascontiguousarray(CODES.T)
    fed = METHOD.feeds(dora(), packed(codes, scales, axes=("num_embeddings", "embedding_dim")))
    np.testing.assert_allclose(fed[M], MAGNITUDE / lengths((codes * scales[:, None]).T), rtol=1e-6)


@pytest.mark.parametrize("outputs_first", [True, False])
def test_rows_are_added_up_a_few_at_a_time(packed, monkeypatch, outputs_first):
    whole, axes = packed, ("out_features", "in_features")
    codes, scales = CODES, SCALES
    if not outputs_first:
        codes, scales, axes = (
            np.ascontiguousarray(CODES.T),
            np.ones(IN, np.float32),
            ("num_embeddings", "embedding_dim"),
        )
    expected = METHOD.feeds(dora(), whole(codes, scales, axes=axes))[M]
    monkeypatch.setattr(PackedPrecision.blocks, "__defaults__", (1,))
    found = METHOD.feeds(dora(), whole(codes, scales, axes=axes))[M]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scales": np.float32([1, 0, 1, 1])}, CorruptFile,
         r"weights\.safetensors: q is no matrix \(4, \d\) packed as int8; .*\n.*q\.scales has 1 value\(s\) such as 0;"),
        ({"codes": CODES[:3]}, CorruptFile, r"q\.codes is int8 of shape \(3, \d\); expected int8 of shape \(4, \d\)"),
        ({"codes": CODES[:3], "scales": np.full(4, np.nan)}, CorruptFile, r"q\.codes is .*\n.*q\.scales has 4 value"),
        ({"recipe": "fp8"}, UnsupportedFormat, "packed as 'fp8'; this release unpacks int8, int4, nf4"),
        ({"recipe": "nf4/64/double"}, InvalidAdapter, r"holds no whole tensor 'q\.nested'"),
    ],
)  # fmt: skip
def test_a_packed_matrix_that_is_damaged_is_named(packed, changes, error, message):
    with pytest.raises(error, match=message):
        METHOD.feeds(dora(), packed(**changes))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 8, id="a header larger than memory"),
        pytest.param(b"\x02" + bytes(7) + b"{}", id="no tensor"),
        pytest.param((10**5).to_bytes(8, "little") + b"[" * 10**5, id="nested without end"),
        pytest.param((4).to_bytes(8, "little") + b"null", id="no table"),
        pytest.param(len(FAR).to_bytes(8, "little") + FAR, id="offsets beyond all files"),
    ],
)
def test_weights_that_are_damaged_are_named(bundle, data):
    made = bundle()
    made.weights_path.write_bytes(data)
    with pytest.raises(
        InvalidAdapter, match=r"weights\.safetensors: (holds|has) no whole (tensor 'q\.weight'|header) \("
    ):
        METHOD.feeds(dora(), made)
    made.weights_path.unlink()
    with pytest.raises(InvalidAdapter, match=r"weights\.safetensors: cannot be read \(No such file"):
        METHOD.feeds(dora(), made)
