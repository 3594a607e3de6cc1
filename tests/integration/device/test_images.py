"""Images from folders and files through training, evaluation and inference; .npy files need no Pillow."""

import json

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.cli import main
from fieldtune.data import EncodedSet
from fieldtune.data.images import ImageExample, encoded_image
from fieldtune.errors import InvalidBundle, InvalidData
from fieldtune.serving.runner import Runner
from fieldtune.tasks import open_task
from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.evaluation import evaluate

CONFIG = TrainConfig(epochs=3, batch_size=4, gradient_accumulation=1, learning_rate=1e-2)
BRIGHTNESS = {"dark": 70, "light": 180}


@pytest.fixture(scope="session")
def arrays():
    """The function that makes so many noisy images (uint8, 32 × 32 RGB) with their labels, dark and light by turns."""

    def make(count, seed=0):
        rng = np.random.default_rng(seed)
        for index in range(count):
            label = "light" if index % 2 else "dark"
            yield rng.normal(BRIGHTNESS[label], 40, (32, 32, 3)).clip(0, 255).astype(np.uint8), label

    return make


@pytest.fixture
def folder(arrays, tmp_path):
    """The function that writes so many images into a folder, one sub-folder a label."""

    def make(count, seed=0, name="photos"):
        for index, (array, label) in enumerate(arrays(count, seed)):
            path = tmp_path / name / label / f"{index:03}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
        return tmp_path / name

    return make


@pytest.fixture
def pixels(arrays):
    """The function that makes so many images as training takes them."""

    def make(count, seed=0):
        found = [encoded_image(array.transpose(2, 0, 1), int(label == "light")) for array, label in arrays(count, seed)]
        return EncodedSet(examples=tuple(found))

    return make


@pytest.fixture
def trained(opened, profile, pixels):
    return train_adapter(opened("tiny-vision"), pixels(80), CONFIG, profile, evaluation=pixels(40, seed=1))


def test_training_learns_and_reports(trained):
    assert trained.stopped == "completed"
    assert trained.after.figure("accuracy") > 0.9
    assert trained.after.loss < 0.6 * trained.before.loss
    assert trained.before.figure("majority_accuracy") == 0.5
    assert trained.tokens == 0, "images have none"
    assert trained.config.max_length is None
    assert sum(step.labels for step in trained.steps) == 3 * 80


def test_a_run_is_repeated_bit_for_bit(opened, profile, pixels):
    first, second = (train_adapter(opened("tiny-vision"), pixels(12), CONFIG, profile).steps for _ in range(2))
    assert first == second


def test_files_and_arrays_are_classified_alike(opened, profile, arrays, folder, trained):
    runner, task = Runner(opened("tiny-vision"), profile), open_task(opened("tiny-vision"))
    adapter = runner.load_adapter(trained.adapter)
    root = folder(10, seed=2)
    paths = [root / label / f"{index:03}.npy" for index, (_, label) in enumerate(arrays(10, seed=2))]
    found = task.answer(runner, paths, adapter)
    labels = [label for _, label in arrays(10, seed=2)]
    assert sum(one.label == label for one, label in zip(found, labels, strict=True)) >= 9
    assert task.answer(runner, [array for array, _ in arrays(10, seed=2)], adapter) == found
    for one, alone in zip(found, (task.answer(runner, [path], adapter)[0] for path in paths), strict=True):
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert task.answer(runner, []) == []
    with pytest.raises(InvalidData, match="a good film: no such file; expected an image"):
        task.answer(runner, ["a good film"])
    with pytest.raises(
        InvalidBundle, match="is a bundle for image-classification; text-classification was asked of it"
    ):
        open_task(opened("tiny-classifier")).answer(runner, ["a good film"])


def test_every_image_that_cannot_be_used_is_named(opened, profile, folder):
    bundle, root = opened("tiny-vision"), folder(4)
    (root / "dark" / "bad.npy").write_bytes(b"no array")
    task = open_task(bundle)
    examples, _ = task.read(root)
    with pytest.raises(InvalidData) as caught:
        task.encode([*examples, ImageExample(path=root / "gone.npy", label=0)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 images of 6 cannot be used"
    assert [str(root / "dark" / "bad.npy") in lines[1], str(root / "gone.npy") in lines[2]] == [True, True]
    with pytest.raises(InvalidData, match=r"image 2: an array of float64; expected uint8"):
        task.answer(Runner(bundle, profile), [np.zeros((32, 32), np.uint8), np.zeros((32, 32))])


def test_static_graphs_compute_the_same(opened, profile, pixels, arrays):
    # 10 images: the last batch of 4 is half padding.
    examples = pixels(10)
    evaluations = [evaluate(opened(name), examples, profile) for name in ("tiny-vision", "static-vision")]
    assert evaluations[0].loss == pytest.approx(evaluations[1].loss, rel=1e-5)
    assert evaluations[0].figures == evaluations[1].figures
    assert [found.labels for found in evaluations] == [10, 10]
    reports = [
        train_adapter(opened(name), examples, CONFIG, profile).steps for name in ("tiny-vision", "static-vision")
    ]
    assert [step.loss for step in reports[0]] == pytest.approx([step.loss for step in reports[1]], rel=1e-3)
    shown = [array for array, _ in arrays(6)]
    task = open_task(opened("tiny-vision"))
    dynamic, static = (Runner(opened(name), profile) for name in ("tiny-vision", "static-vision"))
    for one, other in zip(task.answer(dynamic, shown), task.answer(static, shown), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    with pytest.raises(ValueError, match="batch_size is 8; the bundle's graphs are static and take at most 4"):
        task.answer(static, shown, batch_size=8)


def test_an_image_without_a_label_changes_nothing(opened, profile, pixels):
    examples = pixels(6).examples
    bare = encoded_image(examples[0].arrays["pixel_values"])
    found = [
        evaluate(opened("tiny-vision"), EncodedSet(examples=chosen), profile)
        for chosen in (examples, (bare, *examples))
    ]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    assert (found[1].labels, found[1].examples) == (6, 7)


def test_the_command_line_from_folders_to_labels(bundle_folder, folder, tmp_path, capsys):
    bundle, out = str(bundle_folder("tiny-vision")), str(tmp_path / "out")
    data, held_out = str(folder(80)), folder(20, seed=1, name="held out")
    arguments = ["--batch-size", "4", "--learning-rate", "1e-2"]
    assert main(["train", bundle, "--data", data, "--eval", str(held_out), "--out", out, *arguments]) == 0
    shown = capsys.readouterr()
    assert f"{data}: 80 images, labelled by 2 folders" in shown.err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "images a second" in page
    assert "tokens a second" not in page
    assert json.loads((tmp_path / "out" / "train_report.json").read_text())["config"]["max_length"] is None
    assert main(["evaluate", bundle, "--data", str(held_out), "--adapter", out, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["evaluation"]
    assert evaluated["accuracy"] > 0.9
    one = held_out / "light" / "001.npy"
    (held_out / "notes.txt").write_text("left out")
    assert main(["run", bundle, str(one), str(held_out), "--adapter", out, "--json"]) == 0
    shown = capsys.readouterr()
    assert f"{held_out}: 20 images; not read: 'notes.txt'" in shown.err
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["image"] for line in lines] == [str(one), *map(str, sorted(held_out.rglob("*.npy")))]
    assert sum(line["label"] in line["image"] for line in lines[1:]) == pytest.approx(20 * evaluated["accuracy"])
    assert set(lines[0]) == {"image", "adapter", "label", "probability", "probabilities", "emulated"}
    assert main(["run", bundle, str(one), "--adapter", out]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if str(one) in line]
    assert "light" in row


def test_the_command_line_with_a_file_of_rows(bundle_folder, folder, write_rows, capsys):
    bundle, root = str(bundle_folder("tiny-vision")), folder(4)
    paths = sorted(root.rglob("*.npy"))
    rows = write_rows([{"frame": f"photos/{p.parent.name}/{p.name}", "label": p.parent.name} for p in paths])
    assert main(["evaluate", bundle, "--data", str(rows), "--image-column", "frame", "--json"]) == 0
    shown = capsys.readouterr()
    assert "columns: image from 'frame', label from 'label'" in shown.err
    assert json.loads(shown.out)["evaluation"]["labels"] == 4
    assert main(["run", bundle, "--data", str(rows), "--json"]) == 0
    assert [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()] == list(map(str, paths))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["a.npy", "--max-length", "8", "--strict"],
            2,
            "--max-length, --strict: of text classification, token classification",
        ),
        (["a.npy", "--raw"], 2, "--raw: of text generation only"),
        (["a good film " * 50], 1, "no such file; expected an image"),
        ([".."], 1, "..: no image below it"),
    ],
)
def test_what_does_not_go_with_images(bundle_folder, tmp_path, monkeypatch, capsys, arguments, code, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["run", str(bundle_folder("tiny-vision")), *arguments]) == code
    assert message in capsys.readouterr().err


def test_a_length_in_tokens_is_wrong_usage(bundle_folder, folder, tmp_path, capsys):
    bundle, data = str(bundle_folder("tiny-vision")), str(folder(2))
    for command in (
        ["train", bundle, "--data", data, "--out", str(tmp_path / "out")],
        ["evaluate", bundle, "--data", data],
    ):
        assert main([*command, "--max-length", "8"]) == 2
        assert "max_length is 8; the bundle takes images" in capsys.readouterr().err


def test_inspect_shows_how_images_are_prepared(bundle_folder, capsys):
    bundle = str(bundle_folder("tiny-vision"))
    assert main(["inspect", bundle]) == 0
    shown = capsys.readouterr().out
    for word in ("32 pixels high, 32 wide, RGB", "both edges; bilinear", "0.25, 0.25, 0.25", "dark, light"):
        assert word in shown
    assert "longest text" not in shown
    assert main(["inspect", bundle, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["text"], facts["image"]["height"]) == (None, 32)


def test_a_bundle_needs_no_tokenizer_for_images(opened):
    bundle = opened("tiny-vision")
    assert not bundle.tokenizer_path.exists()
    assert bundle.image.channels == 3
    with pytest.raises(InvalidBundle, match="it takes images, not texts"):
        _ = bundle.text
    with pytest.raises(InvalidBundle, match="it takes texts, not images"):
        _ = opened("tiny-classifier").image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "neither of text and image"),
        ({"channels": 4}, "'channels' is 4; expected 1"),
        ({"mean": [0.5]}, r"'mean' is \[0.5\]"),
        ({"std": [0.5, 0.0, 0.5]}, "no std of 0"),
    ],
)
def test_a_manifest_that_says_nonsense_about_images(bundle_folder, tmp_path, changes, message):
    from fieldtune.bundle.opening import open_bundle

    manifest = json.loads((bundle_folder("tiny-vision") / "manifest.json").read_text())
    manifest["image"] = None if "image" in changes else {**manifest["image"], **changes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match=message):
        open_bundle(tmp_path)


def test_pictures_are_resized_on_their_way(opened, profile, trained, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    runner = Runner(opened("tiny-vision"), profile)
    rng = np.random.default_rng(5)
    for label, level in BRIGHTNESS.items():
        array = rng.normal(level, 40, (96, 128)).clip(0, 255).astype(np.uint8)
        image.fromarray(array).resize((100, 70)).save(tmp_path / f"{label}.png")
        image.fromarray(array).resize((100, 70)).save(tmp_path / f"{label}.jpg", quality=95)
        np.save(tmp_path / f"{label}.npy", np.asarray(image.open(tmp_path / f"{label}.png")))
    paths = [tmp_path / f"{label}.{form}" for label in BRIGHTNESS for form in ("png", "npy", "jpg")]
    found = open_task(runner.bundle).answer(runner, paths, runner.load_adapter(trained.adapter))
    for png, npy, jpg in (found[:3], found[3:]):
        assert png == npy
        assert jpg.probabilities == pytest.approx(png.probabilities, abs=0.1)
    assert [one.label for one in found] == ["dark"] * 3 + ["light"] * 3
