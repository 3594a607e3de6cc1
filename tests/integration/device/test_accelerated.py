"""Training, evaluating and serving with the frozen prefix on an emulated accelerator and the suffix on the CPU."""

import dataclasses
import gc
import json
import re

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.activations.folders import list_activations
from fieldtune.activations.settings import CacheSettings
from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.opening import open_bundle
from fieldtune.cli import main
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.compilation.kept.store import CompiledStore
from fieldtune.compilation.prefix import open_prefix
from fieldtune.data.examples import EncodedSet
from fieldtune.data.images import encoded_image
from fieldtune.errors import BackendUnavailable, CompileError
from fieldtune.hardware import load_profile
from fieldtune.placement.targets import choose_for
from fieldtune.serving.runner import Runner
from fieldtune.tasks import open_task
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.batch_source import open_batches
from fieldtune.training.evaluation import evaluate

pytest.importorskip("onnxruntime")

CONFIG = TrainConfig(epochs=2, batch_size=4, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(target_folder):
    return open_bundle(target_folder)


@pytest.fixture(params=["vek280", "kv260", "ryzen-ai-strix"])
def profile(request, bundle):
    """A profile that is emulated, with the bundle's prefix compiled for it."""
    found = load_profile(request.param)
    emulated = dataclasses.replace(found, execution=dataclasses.replace(found.execution, on_missing="emulate"))
    compile_prefix(bundle, emulated)
    return emulated


def examples(count, seed=0):
    random = np.random.default_rng(seed)
    made = [encoded_image(random.integers(0, 256, (3, 32, 32), np.uint8), number % 2) for number in range(count)]
    return EncodedSet(examples=tuple(made))


def outcome(report):
    tensors = {key: stored.data for key, stored in report.adapter.tensors.tensors.items()}
    evaluations = [dataclasses.replace(record.evaluation, seconds=0) for record in report.evaluations]
    return report.steps, evaluations, tensors


def moved(bundle, seed):
    """An adapter that differs from the initial one in every tensor."""
    random, initial = np.random.default_rng(seed), read_adapter(bundle.adapter_path)
    tensors = {
        key: StoredTensor.from_float32(stored.float32() + random.normal(0, 0.3, stored.shape).astype(np.float32), "F32")
        for key, stored in initial.tensors.tensors.items()
    }
    return dataclasses.replace(initial, tensors=dataclasses.replace(initial.tensors, tensors=tensors))


def sessions():
    gc.collect()
    return sum(type(thing).__name__ == "InferenceSession" for thing in gc.get_objects())


def compiled_files():
    """Everything that was ever compiled, with the times at which it was written."""
    store = CompiledStore()
    return {path: path.stat().st_mtime_ns for stored in store.list() for path in sorted(stored.folder.rglob("*"))}


@pytest.mark.parametrize("settings", [{"activation_cache": "memory"}, {"activation_cache": "off"}])
def test_the_cache_changes_no_bit(bundle, profile, settings):
    chosen, held_out = examples(10), examples(5, seed=1)
    cold = train_adapter(bundle, chosen, CONFIG, profile, evaluation=held_out)
    warm = train_adapter(bundle, chosen, CONFIG, profile, evaluation=held_out)
    config = dataclasses.replace(CONFIG, cache=CacheSettings(**settings))
    other = train_adapter(bundle, chosen, config, profile, evaluation=held_out)
    assert (cold.split.activations.misses, warm.split.activations.misses) == (15, 0)
    assert outcome(cold) == outcome(warm) == outcome(other)
    assert cold.after.loss != cold.before.loss


def test_training_and_evaluation_say_that_they_are_emulated(bundle, profile):
    chosen = examples(9)
    report = train_adapter(bundle, chosen, CONFIG, profile, evaluation=chosen)
    placement = report.split.placement
    assert (placement.emulated, placement.profile) == (True, profile.name)
    assert (placement.target, placement.batch) == (profile.accelerator.target, profile.accelerator.batch)
    assert report.provider.emulated
    data = report.to_json()
    assert data["split"]["placement"]["emulated"] is True
    # The evaluation before the first step has computed what the first epoch needs.
    assert [(epoch["computed"], epoch["cached"]) for epoch in data["epochs"]] == [(0, 9), (0, 9)]
    found = evaluate(bundle, chosen, profile, report.adapter, batch_size=4)
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(report.after, seconds=0)


def test_codes_of_one_byte_are_kept_and_give_the_very_activations(bundle, profile):
    chosen = examples(9)
    train_adapter(bundle, chosen, CONFIG, profile)
    (stored,) = list_activations()
    values = sum(int(np.prod(spec.shape[1:])) for spec in bundle.manifest.split.boundary)
    assert (stored.path / "records.bin").stat().st_size == 9 * values
    assert stored.prefix.emulated
    found = []
    for settings in (CacheSettings(), CacheSettings(activation_cache="off")):
        with open_batches(bundle, profile, choose_for(bundle, profile), settings) as source:
            found.append(source.batch("eval", chosen, np.arange(9)))
            assert source.counts.misses == (0 if settings == CacheSettings() else 9)
    assert {name: array.tobytes() for name, array in found[0].items()} == {
        name: array.tobytes() for name, array in found[1].items()
    }
    assert len(np.unique(found[0]["boundary_0"])) > 10


def test_a_boundary_depends_on_its_own_sample_alone(bundle, profile):
    prefix = open_prefix(bundle, profile)
    pixels = np.random.default_rng(0).standard_normal((17, 3, 32, 32)).astype(np.float32)

    def rows(indices):
        (found,) = prefix.run({"pixel_values": pixels[indices]}).values()
        return [row.tobytes() for row in found]

    together = rows(list(range(17)))
    assert rows(list(range(16, -1, -1))) == together[::-1]
    assert [rows([index])[0] for index in range(17)] == together


def test_the_float_prefix_of_a_cpu_has_records_of_its_own(bundle, profile):
    chosen, cpu = examples(4), load_profile("cpu-generic")
    quantized, exact = (train_adapter(bundle, chosen, CONFIG, device) for device in (profile, cpu))
    assert quantized.split.activations.misses == exact.split.activations.misses == 4
    assert exact.split.placement.emulated is False
    assert len(list_activations()) == 2


def test_the_quantized_prefix_may_run_on_the_cpu_without_emulation_or_compile(bundle):
    chosen, vek280 = examples(6), load_profile("vek280")
    off = dataclasses.replace(CONFIG, cache=CacheSettings(activation_cache="off"))
    cached, computed = (train_adapter(bundle, chosen, config, vek280, on_missing="cpu") for config in (CONFIG, off))
    assert (cached.split.placement.graph, cached.split.placement.emulated) == ("prefix_vek280", False)
    assert str(cached.split.placement) == "prefix_vek280 on CPUExecutionProvider, 14 samples a run"
    assert [report.split.activations.misses for report in (cached, computed)] == [6, 12]
    assert outcome(cached) == outcome(computed)
    assert CompiledStore().list() == []


def test_what_is_not_compiled_is_not_trained_on(bundle, profile):
    other = dataclasses.replace(
        profile, execution=dataclasses.replace(profile.execution, options={"config_file": "another"})
    )
    with pytest.raises(CompileError, match="fieldtune compile"):
        train_adapter(bundle, examples(4), CONFIG, other)


def test_the_official_backend_is_no_choice_beside_an_accelerator(bundle, profile):
    config = dataclasses.replace(CONFIG, backend="ort-training")
    with pytest.raises(BackendUnavailable, match=f"whose frozen prefix {profile.accelerator.target} runs"):
        train_adapter(bundle, examples(4), config, profile)


def test_a_new_adapter_is_served_without_a_compile_or_a_session(bundle, profile, tmp_path):
    runner, task = Runner(bundle, profile), open_task(bundle)
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (17, 32, 32, 3), np.uint8))
    adapters = [moved(bundle, seed) for seed in range(3)]
    first = task.answer(runner, images, runner.load_adapter(adapters[0]))
    opened, compiled, prefix = sessions(), compiled_files(), runner._prefix
    found = [first]
    for number, adapter in enumerate(adapters[1:]):
        write_adapter(adapter, tmp_path / str(number))
        found.append(task.answer(runner, images, runner.load_adapter(tmp_path / str(number))))
    assert sessions() == opened
    assert compiled_files() == compiled
    assert compiled
    assert runner._prefix is prefix
    assert prefix.compiles == 0
    probabilities = [[result.probability for result in results] for results in found]
    assert probabilities[0] != probabilities[1] != probabilities[2]
    assert runner.placement.emulated


def of_rank(bundle, rank, pattern):
    """An adapter of another rank than the bundle's, and of others yet in some modules."""
    random, initial = np.random.default_rng(rank), moved(bundle, rank)
    tensors = dict(initial.tensors.tensors)
    for parameter in bundle.manifest.layout.parameters:
        if parameter.rank_axis is not None:
            shape = list(parameter.shape)
            shape[parameter.rank_axis] = next((r for name, r in pattern.items() if name in parameter.module), rank)
            tensors[parameter.key] = StoredTensor.from_float32(random.normal(0, 0.3, shape).astype(np.float32), "F32")
    return dataclasses.replace(
        initial,
        config={**initial.config, "r": rank, "rank_pattern": pattern},
        tensors=dataclasses.replace(initial.tensors, tensors=tensors),
    )


@pytest.mark.parametrize(
    ("rank", "pattern", "served"),
    [(1, {}, 4), (4, {}, 4), (2, {"shortcut.convolution": 3}, 4), (2, {"shortcut.convolution": 6}, 6), (7, {}, 7)],
)
def test_adapters_of_lower_ranks_have_the_shapes_of_the_bundles(bundle, profile, rank, pattern, served):
    assert bundle.manifest.layout.rank == 4
    adapter = of_rank(bundle, rank, pattern)
    runner = Runner(bundle, profile, native_adapters=False)
    padded = runner.load_adapter(adapter)
    ranks = {
        padded.feeds[parameter.key].shape[parameter.rank_axis]
        for parameter in bundle.manifest.layout.parameters
        if parameter.rank_axis is not None
    }
    assert ranks == {served}
    own = dataclasses.replace(padded, feeds=inference_inputs(adapter, bundle))
    random = np.random.default_rng(0)
    behind = runner.behind_prefix({"pixel_values": random.standard_normal((5, 3, 32, 32)).astype(np.float32)})
    found, expected, plain = (runner.run(behind, one)["logits"] for one in (padded, own, None))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected - plain).max() > 1e-3 * np.abs(expected).max()
    native = Runner(bundle, profile).load_adapter(adapter)
    assert runner.run(behind, native)["logits"].tobytes() == found.tobytes()


def test_on_the_cpu_alone_adapters_keep_their_ranks(bundle):
    adapter = of_rank(bundle, 2, {"shortcut.convolution": 3})
    loaded = Runner(bundle, load_profile("cpu-generic"), native_adapters=False).load_adapter(adapter)
    shapes = {key: array.shape for key, array in loaded.feeds.items()}
    assert shapes == {key: array.shape for key, array in inference_inputs(adapter, bundle).items()}
    assert {shape[0] for key, shape in shapes.items() if ".lora_A." in key} == {3}


def test_the_prefix_runs_once_for_several_adapters(bundle, profile):
    runner = Runner(bundle, profile)
    inputs = {"pixel_values": np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)}
    behind = runner.behind_prefix(inputs)
    assert set(behind) == {spec.name for spec in bundle.manifest.graphs["suffix_infer"].inputs}
    assert runner.behind_prefix(behind) is behind
    adapters = [None, *(runner.load_adapter(moved(bundle, seed)) for seed in range(2))]
    found = [runner.run(behind, adapter)["logits"] for adapter in adapters]
    for logits, adapter in zip(found, adapters, strict=True):
        assert logits.tobytes() == runner.run(inputs, adapter)["logits"].tobytes()
    assert len({logits.tobytes() for logits in found}) == 3
    whole = Runner(bundle, load_profile("cpu-generic"))
    assert whole.behind_prefix(inputs) is inputs


def test_serving_gives_the_classes_that_the_evaluation_counted(bundle, profile):
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (15, 32, 32, 3), np.uint8)
    adapter = moved(bundle, 1)
    runner = Runner(bundle, profile)
    results = open_task(bundle).answer(runner, list(images), runner.load_adapter(adapter))
    labels = bundle.manifest.task.labels
    made = tuple(
        encoded_image(image.transpose(2, 0, 1), labels.index(result.label))
        for image, result in zip(images, results, strict=True)
    )
    found = evaluate(bundle, EncodedSet(examples=made), profile, adapter)
    assert found.figure("accuracy") == 1.0
    mean = -np.mean([np.log(result.probability) for result in results])
    assert found.loss == pytest.approx(mean, rel=1e-5, abs=1e-7)


def test_the_commands_run_on_the_emulated_accelerator(target_folder, tmp_path, capsys):
    rows = []
    for number, example in enumerate(examples(8).examples):
        np.save(tmp_path / f"{number}.npy", example.arrays["pixel_values"].transpose(1, 2, 0))
        rows.append(json.dumps({"image": f"{number}.npy", "label": ("dark", "light")[number % 2]}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    device = ["--profile", "vek280", "--on-missing", "emulate"]
    data = ["--data", str(tmp_path / "rows.jsonl")]
    out = str(tmp_path / "out")
    assert main(["compile", str(target_folder), *device]) == 0
    assert main(["train", str(target_folder), *data, "--out", out, *device]) == 0
    shown = capsys.readouterr().err
    assert "placement: prefix_vek280 on DPUCV2DX8G_ISA1_C20B14, emulated by CPUExecutionProvider: " in shown
    # No time of the emulation passes for the accelerator's.
    took = r"epoch 1: \d+\.\d\d s, emulation included; emulated prefix \d+\.\d\d s for 8 examples, 0 from the cache"
    assert re.search(took, shown)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "emulated by CPUExecutionProvider" in page
    for row in ("seconds per epoch", "time training", "time altogether"):
        assert f">{row}, emulation included<" in page
    assert ">of these in the emulated prefix<" in page
    report = json.loads((tmp_path / "out" / "train_report.json").read_text())
    assert all(epoch["prefix_emulated"] for epoch in report["epochs"])
    # What comes from the cache is no time of it.
    assert main(["train", str(target_folder), *data, "--out", f"{out}2", *device]) == 0
    assert re.search(r"epoch 1: \d+\.\d\d s; no prefix, 8 from the cache", capsys.readouterr().err)
    assert "emulation included" not in (tmp_path / "out2" / "report.html").read_text()
    assert main(["evaluate", str(target_folder), *data, "--adapter", out, "--json", *device]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"]["placement"]["emulated"] is True
    assert found["split"]["activations"]["misses"] == 0
    arguments = [str(target_folder), str(tmp_path / "0.npy"), "--adapter", out, "--json", *device]
    assert main(["run", *arguments]) == 0
    shown = capsys.readouterr()
    assert "placement: prefix_vek280 on DPUCV2DX8G_ISA1_C20B14, emulated" in shown.err
    assert json.loads(shown.out)["emulated"] is True


def test_a_language_model_is_refused_by_name(bundle_folder, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "fix the cable"}) + "\n")
    arguments = ["--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), "--profile", "vek280"]
    assert main(["train", str(bundle_folder("tiny-lm")), *arguments, "--on-missing", "emulate"]) == 1
    assert "is a bundle for text-generation, and the profile vek280 runs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
