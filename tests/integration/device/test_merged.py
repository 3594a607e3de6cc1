"""Bundles with an adapter merged into their weights, beside the bundles that are given it."""

import json

import numpy as np
import pytest

from fieldtune.adapters.directory import initial_adapter, read_adapter
from fieldtune.cli import main
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.data.examples import EncodedSet
from fieldtune.data.images import encoded_image, normalize
from fieldtune.errors import AdapterMismatch, InvalidBundle
from fieldtune.hardware import load_profile
from fieldtune.serving.generation import chat
from fieldtune.serving.generation_settings import GenerationSettings
from fieldtune.serving.runner import Runner
from fieldtune.tasks import open_task
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.evaluation import evaluate


@pytest.fixture
def pair(opened, bundle_folder, profile):
    """The function from a kind to two runners, merged and not, and the adapter that the second one needs."""

    def find(kind):
        bundle_folder(f"merged-{kind}")
        whole = Runner(opened(f"tiny-{kind}"), profile)
        folder = bundle_folder(f"tiny-{kind}").parent / f"noisy-{kind}"
        return Runner(opened(f"merged-{kind}"), profile), whole, whole.load_adapter(folder)

    return find


def _check_classes(found, expected):
    for now, then in zip(found, expected, strict=True):
        assert now.label == then.label
        assert list(now.probabilities.values()) == pytest.approx(list(then.probabilities.values()), abs=1e-5)


def test_texts_are_classified_alike(pair):
    merged, whole, adapter = pair("classifier")
    task, other = open_task(merged.bundle), open_task(whole.bundle)
    texts = ["a good film", "the plot was dull", "boring"]
    expected = other.answer(whole, texts, adapter)
    _check_classes(task.answer(merged, texts), expected)
    _check_classes(task.answer(merged, texts, merged.load_adapter(initial_adapter(merged.bundle))), expected)
    assert expected != other.answer(whole, texts)
    assert {found.label for found in expected} <= {"negativeish", "positiveish"}


def test_images_are_classified_alike(pair):
    merged, whole, adapter = pair("vision")
    images = list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8))
    expected = open_task(whole.bundle).answer(whole, images, adapter)
    _check_classes(open_task(merged.bundle).answer(merged, images), expected)


def test_the_whole_network_runs_on_an_emulated_accelerator(opened, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path))
    bundle, accelerated = opened("merged-vision"), load_profile("kv260")
    compile_prefix(bundle, accelerated, on_missing="emulate")
    images = list(np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8))
    runner = Runner(bundle, accelerated, on_missing="emulate")
    assert runner.placement.emulated
    assert runner.placement.offload == 1
    inputs = {"pixel_values": normalize(np.stack(images).transpose(0, 3, 1, 2), bundle.image)}
    exact, quantized = (found.run(inputs)["logits"] for found in (Runner(bundle, profile), runner))
    assert exact.shape == quantized.shape == (5, 2)
    # Eight bits instead of 24, through nine convolutions.
    assert 0 < np.abs(quantized - exact).max() < 0.2 * np.abs(exact).max()
    encoded = [encoded_image(pixels.transpose(2, 0, 1), number % 2) for number, pixels in enumerate(images)]
    examples = EncodedSet(examples=tuple(encoded))
    found = evaluate(bundle, examples, accelerated, on_missing="emulate")
    logits = quantized - quantized.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), np.arange(5) % 2]
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_answers_are_alike(pair):
    merged, whole, adapter = pair("lm")
    settings = GenerationSettings(max_new_tokens=12)
    prompt = "how do i fix my printer?"
    answer = "".join(chat(whole, prompt, settings=settings, adapter=adapter))
    assert "".join(chat(merged, prompt, settings=settings)) == answer


def test_the_figures_of_an_evaluation_are_alike(opened, bundle_folder, profile, encoded, reviews):
    bundle = opened("merged-classifier")
    rows = [{**row, "label": f"{row['label']}ish"} for row in reviews(9)]
    examples = encoded("merged-classifier", rows)
    adapter = read_adapter(bundle_folder("tiny-classifier").parent / "noisy-classifier")
    then = evaluate(opened("tiny-classifier"), examples, profile, adapter)
    now = evaluate(bundle, examples, profile)
    assert now.loss == pytest.approx(then.loss, rel=1e-5)
    assert now.figures == then.figures


def test_nothing_is_stored_for_adapters_and_optimizers(bundle_folder, capsys):
    def storage(name):
        assert main(["check", str(bundle_folder(name)), "--profile", "cpu-generic", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["storage"]

    unmerged, merged = storage("tiny-vision"), storage("merged-vision")
    assert 0 not in (unmerged["adapter_bytes"], unmerged["optimizer_bytes"])
    assert (merged["adapter_bytes"], merged["optimizer_bytes"]) == (0, 0)


def test_it_takes_no_adapter_and_no_training(opened, bundle_folder, profile, encoded, reviews):
    bundle = opened("merged-classifier")
    with pytest.raises(AdapterMismatch, match="has the adapter noisy-classifier merged into its weights"):
        Runner(bundle, profile).load_adapter(bundle_folder("tiny-classifier").parent / "noisy-classifier")
    examples = encoded("tiny-classifier", reviews(4))
    with pytest.raises(InvalidBundle, match="the adapter noisy-classifier is merged into its weights, and nothing"):
        train_adapter(bundle, examples, TrainConfig(), profile)


def test_the_commands(bundle_folder, write_rows, reviews, tmp_path, capsys):
    bundle = str(bundle_folder("merged-classifier"))
    assert main(["run", bundle, "a good film"]) == 0
    assert "noisy-classifier" in capsys.readouterr().out
    assert main(["inspect", bundle]) == 0
    shown = capsys.readouterr().out
    assert "merged adapter" in shown
    assert "Largest differences from the graphs that it was merged from" in shown
    rows = str(write_rows([{**row, "label": f"{row['label']}ish"} for row in reviews(4)]))
    assert main(["evaluate", bundle, "--data", rows]) == 0
    assert "noisy-classifier: 4 examples" in capsys.readouterr().out
    assert main(["train", bundle, "--data", rows, "--out", str(tmp_path / "out")]) == 1
    assert "nothing is left to train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
