import dataclasses
from pathlib import Path

import numpy as np
import pytest

from builders import QUERY, WORDS
from fieldtune.adapters.arrays import from_theta, to_theta
from fieldtune.adapters.arrays import inference_inputs as bundle_inputs
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import AdapterMismatch

HEAD = "base_model.model.classifier"


def inference_inputs(adapter, manifest, **settings):
    return bundle_inputs(adapter, Bundle(Path("nowhere"), manifest), **settings)


def value(adapter, key):
    return adapter.tensors.tensors[key].float32()


def test_theta_there_and_back_changes_no_bit(adapter, manifest):
    theta = to_theta(adapter, manifest)
    assert theta.dtype == np.float32
    assert theta.shape == (manifest.layout.size,) == (6 + 8 + 4 + 4 + 10 + 6 + 2 + 8,)
    np.testing.assert_array_equal(theta[:6].reshape(2, 3), value(adapter, f"{QUERY}.lora_A.weight"))
    back = from_theta(theta, manifest, adapter, ("no", "yes"), {"steps": 3})
    assert list(back.tensors.tensors.items()) == list(adapter.tensors.tensors.items())
    assert back.tensors.metadata == {"format": "pt"}


def test_config_is_kept_and_the_card_is_new(adapter, manifest):
    back = from_theta(to_theta(adapter, manifest), manifest, adapter, ("no", "yes"), {"steps": 3})
    assert list(back.config.items()) == list({**adapter.config, "inference_mode": True}.items())
    assert adapter.config["inference_mode"] is False
    assert (back.card.base_sha256, back.card.task) == ("a" * 64, "text-classification")
    assert (back.card.labels, back.card.training) == (("no", "yes"), {"steps": 3})


def test_dtypes_are_kept_per_tensor(adapter, manifest, changed):
    keys = {f"{QUERY}.lora_A.weight": "BF16", f"{QUERY}.lora_B.weight": "F16", f"{HEAD}.weight": "F64"}
    mixed = changed(
        adapter, tensors={key: StoredTensor.from_float32(value(adapter, key), dtype) for key, dtype in keys.items()}
    )
    theta = to_theta(mixed, manifest)
    assert dict(from_theta(theta, manifest, mixed, (), None).tensors.tensors) == dict(mixed.tensors.tensors)
    moved = from_theta(theta + np.float32(1), manifest, mixed, (), None).tensors.tensors
    assert {key: moved[key].dtype for key in keys} == keys
    expected = value(mixed, f"{QUERY}.lora_A.weight") + np.float32(1)
    np.testing.assert_allclose(moved[f"{QUERY}.lora_A.weight"].float32(), expected, rtol=2**-8)


def test_a_value_too_large_for_its_dtype_is_stored_wider_with_a_warning(adapter, manifest, changed):
    key = f"{QUERY}.lora_A.weight"
    half = changed(adapter, tensors={key: StoredTensor.from_float32(value(adapter, key), "F16")})
    theta = to_theta(half, manifest)
    theta[0] = 1e6
    with pytest.warns(UserWarning, match=r"query.lora_A.weight: a value of 1e\+06 is too large for F16; it is stored"):
        back = from_theta(theta, manifest, half, (), None)
    assert back.tensors.tensors[key].dtype == "F32"
    assert value(back, key)[0, 0] == 1e6


def test_copies_follow_what_they_copy_and_untrained_tensors_stay(adapter, manifest, changed):
    copies = {
        f"{HEAD}.modules_to_save.bias": value(adapter, f"{HEAD}.bias"),
        f"{HEAD}.original_module.bias": np.full(2, 5, np.float32),
    }
    other = changed(adapter, tensors=copies)
    back = from_theta(to_theta(other, manifest) + np.float32(1), manifest, other, (), None)
    np.testing.assert_array_equal(value(back, f"{HEAD}.modules_to_save.bias"), value(adapter, f"{HEAD}.bias") + 1)
    np.testing.assert_array_equal(value(back, f"{HEAD}.original_module.bias"), [5, 5])


def test_a_layout_may_name_either_copy(adapter, manifest, changed):
    bias, copy = f"{HEAD}.bias", f"{HEAD}.modules_to_save.bias"
    other = changed(adapter, tensors={copy: value(adapter, bias)})
    parameters = [dataclasses.replace(p, key=copy) if p.key == bias else p for p in manifest.layout.parameters]
    named = dataclasses.replace(manifest, layout=type(manifest.layout)(tuple(parameters)))
    back = from_theta(to_theta(other, named) + np.float32(1), named, other, (), None)
    for key in (bias, copy):
        np.testing.assert_array_equal(value(back, key), value(adapter, bias) + 1)


def test_theta_of_another_bundle_is_a_programmers_mistake(adapter, manifest, changed):
    with pytest.raises(ValueError, match="theta has shape"):
        from_theta(np.zeros(3, np.float32), manifest, adapter, (), None)
    with pytest.raises(ValueError, match=r"some/adapter has no tensor 'base_model.model.classifier.bias'"):
        from_theta(to_theta(adapter, manifest), manifest, changed(adapter, tensors={f"{HEAD}.bias": None}), (), None)


def test_an_adapter_that_does_not_fit_gives_nothing(adapter, manifest, changed):
    other = changed(adapter, tensors={f"{HEAD}.weight": np.zeros((3, 4), np.float32)})
    for make in (to_theta, inference_inputs):
        with pytest.raises(AdapterMismatch, match=r"classifier\.weight"):
            make(other, manifest)


def test_inference_inputs_are_transposed_and_scaled(adapter, manifest):
    inputs = inference_inputs(adapter, manifest)  # alpha 8, rank 2
    expected = {
        f"{QUERY}.lora_A.weight": value(adapter, f"{QUERY}.lora_A.weight").T,
        f"{QUERY}.lora_B.weight": value(adapter, f"{QUERY}.lora_B.weight").T * 4,
        f"{QUERY}.lora_B.bias": value(adapter, f"{QUERY}.lora_B.bias") * 4,
        f"{QUERY}.base_layer.bias": value(adapter, f"{QUERY}.base_layer.bias"),
        f"{WORDS}.lora_embedding_A": value(adapter, f"{WORDS}.lora_embedding_A").T,
        f"{WORDS}.lora_embedding_B": value(adapter, f"{WORDS}.lora_embedding_B").T * 4,
        f"{HEAD}.bias": value(adapter, f"{HEAD}.bias"),
        f"{HEAD}.weight": value(adapter, f"{HEAD}.weight"),
    }
    assert list(inputs) == list(expected)
    for key, array in inputs.items():
        np.testing.assert_array_equal(array, expected[key], strict=True)
        assert array.flags.c_contiguous, key


def test_unequal_ranks_are_padded_to_the_largest(adapter, manifest, changed):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    other = changed(
        adapter,
        config={"rank_pattern": {"query": 5}},
        tensors={f"{QUERY}.lora_A.weight": a, f"{QUERY}.lora_B.weight": b},
    )
    inputs = inference_inputs(other, manifest)
    assert {key: array.shape for key, array in inputs.items() if "_A" in key or "B" in key} == {
        f"{QUERY}.lora_A.weight": (3, 5),
        f"{QUERY}.lora_B.weight": (5, 4),
        f"{QUERY}.lora_B.bias": (4,),
        f"{WORDS}.lora_embedding_A": (5, 5),
        f"{WORDS}.lora_embedding_B": (5, 3),
    }
    words = value(adapter, f"{WORDS}.lora_embedding_B") @ value(adapter, f"{WORDS}.lora_embedding_A")
    found = inputs[f"{WORDS}.lora_embedding_A"] @ inputs[f"{WORDS}.lora_embedding_B"]
    np.testing.assert_allclose(found, words.T * 4, rtol=1e-5, atol=1e-6)
    assert not inputs[f"{WORDS}.lora_embedding_A"][:, 2:].any()
    found = inputs[f"{QUERY}.lora_A.weight"] @ inputs[f"{QUERY}.lora_B.weight"]
    np.testing.assert_allclose(found, (b @ a).T * 8 / 5, rtol=1e-5, atol=1e-6)


def test_biases_that_the_adapter_leaves_alone(adapter, manifest, changed):
    plain = changed(
        adapter,
        config={"bias": "none", "lora_bias": False},
        tensors={f"{QUERY}.base_layer.bias": None, f"{QUERY}.lora_B.bias": None},
    )
    inputs = inference_inputs(plain, manifest)
    assert f"{QUERY}.base_layer.bias" not in inputs
    np.testing.assert_array_equal(inputs[f"{QUERY}.lora_B.bias"], np.zeros(4, np.float32), strict=True)


def test_a_bundle_without_lora_has_only_its_head(adapter, manifest, changed):
    head = [p for p in manifest.layout.parameters if p.replaces and not p.optional]
    shift = head[0].offset
    layout = type(manifest.layout)(tuple(dataclasses.replace(p, offset=p.offset - shift) for p in head))
    only = {key: None for key in adapter.tensors.tensors if "classifier" not in key}
    assert layout.rank == 0
    inputs = inference_inputs(changed(adapter, tensors=only), dataclasses.replace(manifest, layout=layout))
    assert list(inputs) == [f"{HEAD}.bias", f"{HEAD}.weight"]


def test_pairs_are_padded_to_the_least_rank(adapter, manifest):
    own, padded = inference_inputs(adapter, manifest), inference_inputs(adapter, manifest, least_rank=5)
    assert own.keys() == padded.keys()
    for parameter in manifest.layout.parameters:
        found, expected = padded[parameter.key], own[parameter.key]
        assert found.flags.c_contiguous
        if parameter.rank_axis is None:
            np.testing.assert_array_equal(found, expected)
            continue
        axis = 1 - parameter.rank_axis if parameter.transposed else parameter.rank_axis
        kept, added = np.split(found, [expected.shape[axis]], axis=axis)
        np.testing.assert_array_equal(kept, expected)
        assert found.shape[axis] == 5
        assert not added.any()


def test_an_adapter_of_a_larger_rank_keeps_it(adapter, manifest):
    assert manifest.layout.rank == 2
    own, found = inference_inputs(adapter, manifest), inference_inputs(adapter, manifest, least_rank=1)
    for key, array in own.items():
        np.testing.assert_array_equal(found[key], array, strict=True)
