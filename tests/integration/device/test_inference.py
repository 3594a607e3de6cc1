import concurrent.futures
import dataclasses
import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fieldtune.adapters.adapter import AdapterCard
from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.opening import open_bundle
from fieldtune.errors import AdapterMismatch, InvalidBundle, InvalidData
from fieldtune.hardware import load_profile
from fieldtune.hardware.installed import features
from fieldtune.serving.runner import Runner
from fieldtune.tasks import open_task

pytest.importorskip("onnxruntime")

PROFILE = load_profile("cpu-generic")
TEXTS = ["a good film", "bad", "the best story and the worst acting, was it fun?", "dull", "great fun", "boring plot"]


def _bundle(name):
    folder = os.environ.get("FIELDTUNE_TEST_BUNDLES")
    if not folder or not (Path(folder) / name / "manifest.json").is_file():
        pytest.skip(f"no bundle {name} in FIELDTUNE_TEST_BUNDLES; make them with tests/tiny_bundles.py")
    return open_bundle(Path(folder) / name)


@pytest.fixture(scope="module")
def bundle():
    return _bundle("tiny-classifier")


@pytest.fixture(scope="module")
def runner(bundle):
    return Runner(bundle, PROFILE)


@pytest.fixture(scope="module", params=["native", "by name"])
def either(request, bundle):
    """A runner of each of the two ways in which adapters are fed."""
    if request.param == "native" and not features().has_lora_adapter:
        pytest.skip("this ONNX Runtime has no LoraAdapter")
    return Runner(bundle, PROFILE, native_adapters=request.param == "native")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    mask = np.ones((3, 9), np.int64)
    mask[1, 5:] = 0
    return {"input_ids": rng.integers(5, 60, (3, 9)), "attention_mask": mask}


def _tensors(bundle, rank, seed, size=0.5):
    """Random values of every tensor, by PEFT key, in PEFT's shapes at some rank."""
    rng = np.random.default_rng(seed)
    found = {}
    for p in bundle.manifest.layout.parameters:
        shape = [rank if axis == p.rank_axis else width for axis, width in enumerate(p.shape)]
        found[p.key] = (rng.standard_normal(shape) * size).astype(np.float32)
    return found


def _adapter(bundle, tensors, *, rank, alpha, labels=(), **config):
    like = read_adapter(bundle.adapter_path)
    stored = {key: StoredTensor.from_float32(value, "F32") for key, value in tensors.items()}
    card = AdapterCard(base_sha256=bundle.manifest.base.sha256, task=bundle.manifest.task.name, labels=labels)
    return dataclasses.replace(
        like,
        config={**like.config, "r": rank, "lora_alpha": alpha, **config},
        tensors=dataclasses.replace(like.tensors, tensors=stored),
        card=card if labels else None,
        where=f"rank {rank}",
    )


def _logits(runner, batch, adapter):
    return runner.run(batch, None if adapter is None else runner.load_adapter(adapter))["logits"]


def _pairs(bundle):
    """The keys of A and B of each adapted module."""
    keys = [p.key for p in bundle.manifest.layout.parameters]
    return [(key, key.replace("lora_A", "lora_B")) for key in keys if "lora_A" in key]


def _sessions():
    return sum(type(thing).__name__ == "InferenceSession" for thing in gc.get_objects())


def test_adapters_of_any_rank_swap_over_one_session(bundle, batch, either):
    gc.collect()
    before, session = _sessions(), either._session
    adapters = [
        either.load_adapter(_adapter(bundle, _tensors(bundle, rank, rank), rank=rank, alpha=8)) for rank in (1, 4, 16)
    ]
    first = [either.run(batch, adapter)["logits"] for adapter in (None, *adapters)]
    again = [either.run(batch, adapter)["logits"] for adapter in (*adapters[::-1], None)]
    for logits, other in zip(first, again[::-1], strict=True):
        np.testing.assert_array_equal(logits, other)
    # Every adapter, and the base, has an answer of its own.
    gaps = [np.abs(a - b).max() for i, a in enumerate(first) for b in first[:i]]
    assert min(gaps) > 0.05
    assert either._session is session
    assert _sessions() == before


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-vision"])
def test_padding_to_the_rank_of_a_compiled_graph_changes_no_bit(name):
    bundle = _bundle(name)
    runner = Runner(bundle, PROFILE, native_adapters=False)
    random = np.random.default_rng(0)
    if name == "tiny-vision":
        inputs = {"pixel_values": random.standard_normal((3, 3, 32, 32)).astype(np.float32)}
    else:
        ids = random.integers(5, 60, (3, 9))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    adapter = _adapter(bundle, _tensors(bundle, 3, 0), rank=3, alpha=8)
    loaded = runner.load_adapter(adapter)
    expected = runner.run(inputs, loaded)["logits"]
    for rank in (4, 8, 16, 64):
        padded = dataclasses.replace(loaded, feeds=inference_inputs(adapter, bundle, least_rank=rank))
        np.testing.assert_array_equal(runner.run(inputs, padded)["logits"], expected)


def test_language_models_are_refused_beside_an_accelerator_by_name():
    with pytest.raises(InvalidBundle, match=r"is a bundle for text-generation, .+: language models are not split"):
        Runner(_bundle("tiny-lm"), load_profile("vek280"), on_missing="emulate")


def test_both_ways_of_feeding_an_adapter_give_the_same_bits(bundle, batch):
    if not features().has_lora_adapter:
        pytest.skip("this ONNX Runtime has no LoraAdapter")
    native, named = (Runner(bundle, PROFILE, native_adapters=way) for way in (True, False))
    for rank in (1, 3, 16):
        adapter = _adapter(bundle, _tensors(bundle, rank, rank), rank=rank, alpha=4)
        loaded = native.load_adapter(adapter), named.load_adapter(adapter)
        assert loaded[0].native is not None
        assert not loaded[0].feeds
        assert loaded[1].native is None
        np.testing.assert_array_equal(
            native.run(batch, loaded[0])["logits"], named.run(batch, loaded[1])["logits"], err_msg=f"rank {rank}"
        )


def test_an_adapter_equals_its_merged_update(bundle, batch, either):
    # With A = 1 and B = (alpha / rank) B A, at full rank and scale 1, the same matrix is added to each weight.
    rank, alpha = 4, 6
    tensors = _tensors(bundle, rank, 3)
    merged = dict(tensors)
    for a, b in _pairs(bundle):
        merged[b] = np.float32(alpha / rank) * (tensors[b] @ tensors[a])
        merged[a] = np.eye(tensors[a].shape[1], dtype=np.float32)
        full = tensors[a].shape[1]
    expected = _logits(either, batch, _adapter(bundle, merged, rank=full, alpha=full))
    found = _logits(either, batch, _adapter(bundle, tensors, rank=rank, alpha=alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - _logits(either, batch, None)).max() > 0.05


def test_two_stacked_adapters_add_up(bundle, batch, either):
    # B1 A + B2 A = [B1 B2] [A; A]: twice the rank, so alpha is doubled to keep the scale.
    one, two = _tensors(bundle, 4, 3), _tensors(bundle, 4, 4)
    stacked, added = dict(one), dict(one)
    for a, b in _pairs(bundle):
        stacked[a], stacked[b] = np.concatenate([one[a], one[a]]), np.concatenate([one[b], two[b]], axis=1)
        added[b] = one[b] + two[b]
    found = _logits(either, batch, _adapter(bundle, stacked, rank=8, alpha=16))
    expected = _logits(either, batch, _adapter(bundle, added, rank=4, alpha=8))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_zero_padding_to_a_larger_rank_changes_nothing(bundle, batch, either):
    tensors = _tensors(bundle, 4, 3)
    padded = dict(tensors)
    for a, b in _pairs(bundle):
        padded[a], padded[b] = np.pad(tensors[a], ((0, 12), (0, 0))), np.pad(tensors[b], ((0, 0), (0, 12)))
    found = _logits(either, batch, _adapter(bundle, padded, rank=16, alpha=32))
    np.testing.assert_allclose(
        found, _logits(either, batch, _adapter(bundle, tensors, rank=4, alpha=8)), rtol=1e-5, atol=1e-6
    )


def test_doubling_alpha_is_doubling_b(bundle, batch, either):
    tensors = _tensors(bundle, 4, 3)
    doubled = {key: value * 2 if "lora_B" in key else value for key, value in tensors.items()}
    found = _logits(either, batch, _adapter(bundle, tensors, rank=4, alpha=16))
    np.testing.assert_array_equal(found, _logits(either, batch, _adapter(bundle, doubled, rank=4, alpha=8)))
    # alpha / √rank with rsLoRA: 8 / √4 = 16 / 4.
    np.testing.assert_array_equal(
        found, _logits(either, batch, _adapter(bundle, tensors, rank=4, alpha=8, use_rslora=True))
    )


def test_modules_of_different_ranks_go_together(bundle, batch, either):
    tensors = _tensors(bundle, 2, 3)
    a, b = _pairs(bundle)[0]
    (module,) = {p.module for p in bundle.manifest.layout.parameters if p.key == a}
    padded = dict(tensors)
    padded[a], padded[b] = np.pad(tensors[a], ((0, 3), (0, 0))), np.pad(tensors[b], ((0, 0), (0, 3)))
    mixed = _adapter(bundle, padded, rank=2, alpha=2, rank_pattern={module: 5}, alpha_pattern={module: 5})
    expected = _logits(either, batch, _adapter(bundle, tensors, rank=2, alpha=2))
    np.testing.assert_allclose(_logits(either, batch, mixed), expected, rtol=1e-5, atol=1e-6)


def test_heads_swap_with_their_adapters(bundle, batch, either):
    # Heads that pick one feature each make the pooled features visible, and NumPy then computes any head.
    tensors = _tensors(bundle, 4, 3)
    (weight,) = [key for key in tensors if key.endswith("classifier.weight")]
    (bias,) = [key for key in tensors if key.endswith("classifier.bias")]
    features_count = tensors[weight].shape[1]
    pooled = []
    for start in range(0, features_count, 2):
        head = np.eye(features_count, dtype=np.float32)[start : start + 2]
        picking = {**tensors, weight: head, bias: np.zeros(2, np.float32)}
        pooled.append(_logits(either, batch, _adapter(bundle, picking, rank=4, alpha=8)))
    expected = np.concatenate(pooled, axis=1) @ tensors[weight].T + tensors[bias]
    found = _logits(either, batch, _adapter(bundle, tensors, rank=4, alpha=8))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_an_adapter_leaves_out_keeps_the_graphs_default(bundle, batch, runner):
    named = Runner(bundle, PROFILE, native_adapters=False)
    initial = read_adapter(bundle.adapter_path)
    tensors = _tensors(bundle, 4, 3)
    head = [key for key in tensors if "lora" not in key]
    with_initial_head = {**tensors, **{key: initial.tensors.tensors[key].float32() for key in head}}
    loaded = named.load_adapter(_adapter(bundle, with_initial_head, rank=4, alpha=8))
    without_head = dataclasses.replace(loaded, feeds={key: loaded.feeds[key] for key in loaded.feeds if "lora" in key})
    assert len(without_head.feeds) < len(loaded.feeds)
    expected = named.run(batch, loaded)["logits"]
    np.testing.assert_array_equal(named.run(batch, without_head)["logits"], expected)
    if features().has_lora_adapter:
        from fieldtune.runtime.native_adapters import native_adapter

        native = dataclasses.replace(loaded, feeds={}, native=native_adapter(without_head.feeds))
        np.testing.assert_array_equal(runner.run(batch, native)["logits"], expected)


def test_the_initial_adapter_of_a_fresh_bundle_changes_nothing(bundle, batch, either):
    initial = read_adapter(bundle.adapter_path)
    np.testing.assert_array_equal(_logits(either, batch, initial), _logits(either, batch, None))


def test_threads_share_a_runner(bundle, batch, either):
    adapters = [
        None,
        *(either.load_adapter(_adapter(bundle, _tensors(bundle, r, r), rank=r, alpha=8)) for r in (1, 2, 5)),
    ]
    expected = [either.run(batch, adapter)["logits"] for adapter in adapters]
    task = open_task(bundle)
    known = [task.answer(either, TEXTS, adapter) for adapter in adapters]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(either.run, batch, adapters[i % 4]) for i in range(64)]
        texts = [pool.submit(task.answer, either, TEXTS, adapters[i % 4]) for i in range(16)]
        for i, run in enumerate(runs):
            np.testing.assert_array_equal(run.result()["logits"], expected[i % 4])
        assert [future.result() for future in texts] == known * 4


def test_every_mismatch_of_an_adapter_is_listed(bundle, runner):
    tensors = _tensors(bundle, 4, 3)
    (weight,) = [key for key in tensors if key.endswith("classifier.weight")]
    a = _pairs(bundle)[0][0]
    tensors[weight] = np.zeros((3, tensors[weight].shape[1]), np.float32)
    del tensors[a]
    tensors["base_model.model.other.lora_A.weight"] = np.zeros((4, 8), np.float32)
    adapter = _adapter(bundle, tensors, rank=4, alpha=8, labels=("x", "y", "z"))
    adapter = dataclasses.replace(adapter, card=dataclasses.replace(adapter.card, base_sha256="f" * 64))
    with pytest.raises(AdapterMismatch) as caught:
        runner.load_adapter(adapter)
    message = str(caught.value)
    for part in (
        "5 mismatch(es)",
        "sha256 ffffffffffff",
        "3 label(s) (x, y, z)",
        f"{a}: missing",
        "other.lora_A",
        weight,
    ):
        assert part in message


def test_labels_follow_the_adapter(bundle, runner, tmp_path):
    tensors = _tensors(bundle, 3, 3)
    write_adapter(_adapter(bundle, tensors, rank=3, alpha=8, labels=("no", "yes")), tmp_path / "own")
    write_adapter(_adapter(bundle, tensors, rank=3, alpha=8), tmp_path / "none")
    own, none = runner.load_adapter(tmp_path / "own"), runner.load_adapter(tmp_path / "none", "plain")
    assert (own.name, none.name) == (str(tmp_path / "own"), "plain")
    task = open_task(bundle)
    for ours, theirs in zip(task.answer(runner, TEXTS, own), task.answer(runner, TEXTS, none), strict=True):
        assert list(ours.probabilities) == ["no", "yes"]
        assert list(theirs.probabilities) == ["negative", "positive"]
        assert list(ours.probabilities.values()) == list(theirs.probabilities.values())
        assert ours.label == {"negative": "no", "positive": "yes"}[theirs.label]


def test_the_temporary_file_of_a_native_adapter_is_removed(bundle, tmp_path, monkeypatch):
    if not features().has_lora_adapter:
        pytest.skip("this ONNX Runtime has no LoraAdapter")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runner = Runner(bundle, PROFILE)
    assert runner.load_adapter(bundle.adapter_path).native is not None
    assert list(tmp_path.iterdir()) == []


def test_without_a_temporary_file_an_adapter_is_fed_by_name(bundle, batch, tmp_path, monkeypatch):
    if not features().has_lora_adapter:
        pytest.skip("this ONNX Runtime has no LoraAdapter")
    adapter = _adapter(bundle, _tensors(bundle, 3, 3), rank=3, alpha=8)
    runner = Runner(bundle, PROFILE)
    expected = _logits(runner, batch, adapter)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.warns(UserWarning, match="fed by name, with the same results"):
        loaded = runner.load_adapter(adapter)
    assert loaded.native is None
    np.testing.assert_array_equal(runner.run(batch, loaded)["logits"], expected)


def test_probabilities_are_the_softmax_of_the_logits(bundle, runner):
    adapter = runner.load_adapter(_adapter(bundle, _tensors(bundle, 3, 5), rank=3, alpha=8))
    found = open_task(bundle).answer(runner, TEXTS, adapter, batch_size=2)
    for text, one in zip(TEXTS, found, strict=True):
        ids = np.array([runner.tokenizer.encode(text).ids])
        logits = runner.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, adapter)["logits"][0]
        powers = np.exp(logits.astype(np.float64))
        np.testing.assert_allclose(list(one.probabilities.values()), powers / powers.sum(), rtol=1e-4, atol=1e-6)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert one.label == bundle.manifest.task.labels[int(logits.argmax())]
        assert one.probability == max(one.probabilities.values())
    assert len({one.probability for one in found}) == len(TEXTS)


def test_a_static_bundle_pads_and_answers_as_the_dynamic_one(bundle, runner):
    static = Runner(_bundle("static-classifier"), PROFILE)
    adapter = _adapter(bundle, _tensors(bundle, 3, 5), rank=3, alpha=8)
    ours, theirs = (open_task(each.bundle).answer(each, TEXTS, each.load_adapter(adapter)) for each in (runner, static))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            list(one.probabilities.values()), list(other.probabilities.values()), rtol=1e-4, atol=1e-6
        )
    cut = open_task(static.bundle).answer(static, ["good", "good " * 30])
    assert [one.truncated for one in cut] == [False, True]


def test_long_texts_are_cut_counted_or_refused(runner):
    limit = runner.bundle.manifest.text.max_length
    task, fits, long = open_task(runner.bundle), "good " * (limit - 2), "good " * (limit + 20)
    found = task.answer(runner, [fits, long, "bad", long])
    assert [one.truncated for one in found] == [False, True, False, True]
    assert found[0].probabilities == pytest.approx(found[1].probabilities, abs=1e-6)
    with pytest.raises(InvalidData, match=r"2 example\(s\) longer than .*\n  - text 2: .*\n  - text 4"):
        task.answer(runner, [fits, long, "bad", long], strict=True)
    assert task.answer(runner, ["a good film"], max_length=4)[0].truncated


def test_no_text_is_no_class(runner):
    assert open_task(runner.bundle).answer(runner, []) == []


def test_mistakes_of_the_caller(bundle, batch, runner):
    other = dataclasses.replace(runner.load_adapter(bundle.adapter_path), base_sha256="0" * 64)
    with pytest.raises(ValueError, match="another base model"):
        runner.run(batch, other)
    with pytest.raises(ValueError, match="attention_mask"):
        runner.run({"input_ids": batch["input_ids"]})


def test_classes_are_not_asked_of_a_language_model():
    runner = Runner(_bundle("tiny-lm"), PROFILE)
    with pytest.raises(InvalidBundle, match=r"is a bundle for text-generation; text-classification was asked of it"):
        open_task(_bundle("tiny-classifier")).answer(runner, ["a"])
