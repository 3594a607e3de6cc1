"""Split bundles: the same results as whole graphs and without the cache, and what is kept of the prefix."""

import contextlib
import dataclasses
import json
import re

import numpy as np
import pytest

from fieldtune.activations.folders import list_activations
from fieldtune.activations.settings import CacheSettings
from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.cli import main
from fieldtune.compilation.prefix import open_prefix
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.data.images import encoded_image
from fieldtune.placement.targets import choose_for
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.backends.optimizers import AdamWConfig
from fieldtune.training.backends.portable import PortableBackend
from fieldtune.training.batch_source import SplitBatches, WholeBatches, open_batches
from fieldtune.training.evaluation import evaluate

NAMES = ("split-vision", "split-classifier")
CONFIG = TrainConfig(epochs=3, batch_size=4, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=NAMES)
def bundle(request, opened):
    return opened(request.param)


def examples(bundle, count, seed=0):
    """Random images or texts, whose labels alternate."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        if bundle.manifest.image is not None:
            made.append(encoded_image(random.integers(0, 256, (3, 32, 32), np.uint8), number % 2))
        else:
            ids = random.integers(5, 60, random.integers(3, 17))
            arrays = {"input_ids": ids, "labels": np.array(number % 2, np.int64)}
            made.append(Encoded(arrays=arrays, weight=1, length=len(ids)))
    return EncodedSet(examples=tuple(made))


@contextlib.contextmanager
def batches(bundle, profile, *, whole=False, **settings):
    cache = CacheSettings(**settings)
    with open_batches(bundle, profile, choose_for(bundle, profile), cache, whole=whole) as source:
        yield source


def outcome(report):
    """All that a run computed, to the bit."""
    tensors = {key: stored.data for key, stored in report.adapter.tensors.tensors.items()}
    evaluations = [dataclasses.replace(record.evaluation, seconds=0) for record in report.evaluations]
    return report.steps, evaluations, tensors


def test_a_boundary_depends_on_its_own_sample_alone(bundle, profile):
    chosen = examples(bundle, 11)
    with batches(bundle, profile, activation_cache="off") as source:
        names = [spec.name for spec in bundle.manifest.split.boundary]

        def boundary(indices):
            batch = source.batch("eval", chosen, np.array(indices))
            return [[batch[name][row].tobytes() for name in names] for row in range(len(indices))]

        together = boundary(range(11))
        assert boundary(range(10, -1, -1)) == together[::-1]
        assert [boundary([index])[0] for index in range(11)] == together
        assert boundary([3, 7, 3, 3, 3]) == [together[index] for index in (3, 7, 3, 3, 3)]
        assert len({tuple(rows) for rows in together}) == 11


def test_prefix_and_suffix_take_the_steps_of_the_whole_graph(bundle, profile):
    chosen, indices = examples(bundle, 7), np.arange(7)
    theta = to_theta(read_adapter(bundle.adapter_path), bundle.manifest)
    theta += np.random.default_rng(0).normal(0, 0.05, theta.size).astype(np.float32)
    found = []
    for whole in (True, False):
        with batches(bundle, profile, whole=whole) as source:
            assert isinstance(source, WholeBatches if whole else SplitBatches)
            backend = PortableBackend(bundle, source.choice, theta, AdamWConfig(), 0.0, source.graphs)
            sums = backend.accumulate(source.batch("gradient", chosen, indices), 7)
            evaluated = backend.evaluate(source.batch("eval", chosen, indices), 7)
            found.append((sums, evaluated, backend.update(0.01)))
    (sums, evaluated, norm), (split_sums, split_evaluated, split_norm) = found
    assert split_sums == pytest.approx(sums, rel=1e-5)
    assert split_sums.weight == 7
    assert split_norm == pytest.approx(norm, rel=1e-4)
    assert split_evaluated.loss == pytest.approx(evaluated.loss, rel=1e-5)
    assert split_evaluated.weight == evaluated.weight == 7
    assert list(split_evaluated.outputs) == list(evaluated.outputs) == ["logits"]
    np.testing.assert_allclose(split_evaluated.outputs["logits"], evaluated.outputs["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation_cache": "off"},
        {"activation_cache": "memory"},
        {"activation_cache": "disk", "cache_memory_mib": 0},
        {"activation_cache": "disk", "cache_disk_mib": 0, "cache_memory_mib": 0},
    ],
)
def test_the_cache_changes_no_bit(bundle, profile, settings):
    chosen, held_out = examples(bundle, 10), examples(bundle, 5, seed=1)
    cold = train_adapter(bundle, chosen, CONFIG, profile, evaluation=held_out)
    warm = train_adapter(bundle, chosen, CONFIG, profile, evaluation=held_out)
    config = dataclasses.replace(CONFIG, cache=CacheSettings(**settings))
    other = train_adapter(bundle, chosen, config, profile, evaluation=held_out)
    assert warm.split.activations.misses == 0
    assert outcome(cold) == outcome(warm) == outcome(other)
    assert cold.after.loss != cold.before.loss


def test_the_prefix_runs_once_for_each_example(bundle, profile):
    chosen, held_out = examples(bundle, 10), examples(bundle, 5, seed=1)
    config = dataclasses.replace(CONFIG, cache=CacheSettings(activation_cache="memory"))
    report = train_adapter(bundle, chosen, config, profile, evaluation=held_out)
    assert [(epoch.computed, epoch.cached, epoch.steps) for epoch in report.epochs] == [
        (10, 0, 3),
        (0, 10, 3),
        (0, 10, 3),
    ]
    assert report.epochs[0].prefix_seconds > 0
    assert [epoch.prefix_seconds for epoch in report.epochs[1:]] == [0, 0]
    activations = report.split.activations
    # Four evaluations of five: the first computes.
    assert (activations.misses, activations.hits, activations.samples) == (15, 20 + 15, 15)
    assert report.split.prefix_seconds >= report.epochs[0].prefix_seconds
    assert report.split.placement.graph == "prefix"
    assert report.split.placement.emulated is False


def test_off_runs_the_prefix_every_time_and_leaves_nothing(bundle, profile, cache_folder):
    config = dataclasses.replace(CONFIG, cache=CacheSettings(activation_cache="off"))
    report = train_adapter(bundle, examples(bundle, 10), config, profile)
    assert [epoch.computed for epoch in report.epochs] == [10, 10, 10]
    assert not cache_folder.exists()


def test_what_an_example_is_called_and_where_it_stands_does_not_matter(bundle, profile):
    train_adapter(bundle, examples(bundle, 6), CONFIG, profile)
    turned = examples(bundle, 6).examples[::-1]
    twice = EncodedSet(examples=(*turned, *examples(bundle, 6).examples))
    report = train_adapter(bundle, twice, CONFIG, profile)
    assert (report.split.activations.misses, report.split.activations.samples) == (0, 6)
    (stored,) = list_activations()
    assert stored.samples == 6
    assert stored.prefix.base == bundle.manifest.base.id


def test_equal_examples_in_one_batch_are_computed_once(bundle, profile):
    one = examples(bundle, 1).examples
    with batches(bundle, profile) as source:
        batch = source.batch("eval", EncodedSet(examples=one * 5), np.arange(5))
        assert source.split.activations.samples == 1
    for spec in bundle.manifest.split.boundary:
        assert (batch[spec.name] == batch[spec.name][0]).all()


def test_a_damaged_record_is_computed_again_with_the_same_result(bundle, profile):
    chosen = examples(bundle, 6)
    first = train_adapter(bundle, chosen, CONFIG, profile)
    (stored,) = list_activations()
    data = bytearray((stored.path / "records.bin").read_bytes())
    data[len(data) // 2] ^= 0x40
    (stored.path / "records.bin").write_bytes(data)
    with pytest.warns(UserWarning, match="a damaged record; it is computed again"):
        second = train_adapter(bundle, chosen, CONFIG, profile)
    third = train_adapter(bundle, chosen, CONFIG, profile)
    assert [report.split.activations.misses for report in (first, second, third)] == [6, 1, 0]
    assert outcome(first) == outcome(second) == outcome(third)


def test_evaluations_use_what_training_kept(bundle, profile):
    chosen = examples(bundle, 6)
    report = train_adapter(bundle, chosen, CONFIG, profile, evaluation=chosen)
    with batches(bundle, profile) as source:
        source.batch("eval", chosen, np.arange(6))
        assert source.counts[:2] == (6, 0)
    found = evaluate(bundle, chosen, profile, report.adapter, batch_size=4)
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(report.after, seconds=0)


def test_another_bundle_and_another_number_of_threads_have_records_of_their_own(opened, profile):
    runtime = dataclasses.replace(profile.runtime, threads=1)
    for name, changed in (("split-vision", profile), ("split-vision", dataclasses.replace(profile, runtime=runtime))):
        report = train_adapter(opened(name), examples(opened(name), 4), CONFIG, changed)
        assert report.split.activations.misses == 4
    assert len(list_activations()) == 2


def test_the_prefix_takes_any_number_of_rows(bundle, profile):
    chosen = examples(bundle, 9)
    prefix = open_prefix(bundle, profile)
    with batches(bundle, profile, activation_cache="off") as source:
        whole = source.batch("eval", chosen, np.arange(9))
    inputs = WholeBatches(bundle, source.choice).batch("infer", chosen, np.arange(9))
    for rows in (1, 4, 9):
        found = prefix.run({name: array[:rows] for name, array in inputs.items()})
        for name, array in found.items():
            assert array.tobytes() == whole[name][:rows].tobytes()


@pytest.fixture
def vision_arguments(opened, tmp_path):
    rows = []
    for number, example in enumerate(examples(opened("split-vision"), 8).examples):
        np.save(tmp_path / f"{number}.npy", example.arrays["pixel_values"].transpose(1, 2, 0))
        rows.append(json.dumps({"image": f"{number}.npy", "label": ("dark", "light")[number % 2]}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    return str(opened("split-vision").root), "--data", str(tmp_path / "rows.jsonl")


def test_the_commands_say_what_ran_where_and_what_was_kept(vision_arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", *vision_arguments, "--out", str(out), "--epochs", "2"]) == 0
    shown = capsys.readouterr().err
    assert "placement: prefix on CPUExecutionProvider, 4 samples a run" in shown
    assert re.search(r"epoch 1: \d+\.\d\d s; prefix \d+\.\d\d s for 8 examples, 0 from the cache", shown)
    assert "emula" not in shown
    assert "s; no prefix, 8 from the cache" in shown
    report = json.loads((out / "train_report.json").read_text())
    assert report["split"]["activations"]["misses"] == 8
    assert report["split"]["placement"]["graph"] == "prefix"
    assert [epoch["computed"] for epoch in report["epochs"]] == [8, 0]
    page = (out / "report.html").read_text()
    assert "prefix on CPUExecutionProvider, 4 samples a run" in page
    assert "8 examples, 0.0 MB on disk; found 8 times, computed 8 times" in page
    assert "cache disk mib" in page
    evaluation = ["evaluate", *vision_arguments, "--adapter", str(out), "--json"]
    assert main(evaluation) == 0
    cached = json.loads(capsys.readouterr().out)
    assert (cached["split"]["activations"]["hits"], cached["split"]["activations"]["misses"]) == (8, 0)
    assert main([*evaluation, "--activation-cache", "off"]) == 0
    computed = json.loads(capsys.readouterr().out)
    assert (computed["split"]["activations"]["hits"], computed["split"]["activations"]["misses"]) == (0, 8)
    assert computed["evaluation"]["loss"] == cached["evaluation"]["loss"]


def test_a_whole_bundle_has_no_prefix_and_no_cache(opened, profile, encoded, reviews, cache_folder):
    report = train_adapter(opened("tiny-classifier"), encoded("tiny-classifier", reviews(6)), CONFIG, profile)
    assert report.split is None
    assert [(epoch.steps, epoch.computed, epoch.cached) for epoch in report.epochs] == [(2, 0, 0)] * 3
    assert not cache_folder.exists()
