"""Small bundles, which ``tests/tiny_bundles.py`` builds on the dev box, and data that fits them."""

import itertools
import json
import os
import random
from pathlib import Path

import pytest

GOOD = ("good", "great", "fine", "best", "fun", "love", "moving")
BAD = ("bad", "poor", "worst", "dull", "boring", "waste", "hate")
NOUNS = ("film", "movie", "story", "plot", "acting", "cast", "scene")


@pytest.fixture(scope="session")
def bundle_folder():
    """The function from a small bundle's name to its folder; it skips the test where that is missing."""
    pytest.importorskip("onnxruntime")
    root = os.environ.get("FIELDTUNE_TEST_BUNDLES", "")

    def find(name):
        folder = Path(root) / name
        if not root or not (folder / "manifest.json").is_file():
            pytest.skip(
                f"no bundle {name}: FIELDTUNE_TEST_BUNDLES is {root!r}; make tiny-bundles real-bundles builds them"
            )
        return folder

    return find


@pytest.fixture(scope="session")
def opened(bundle_folder):
    """The function from a small bundle's name to the bundle."""
    from fieldtune.bundle.opening import open_bundle

    return lambda name: open_bundle(bundle_folder(name))


@pytest.fixture(scope="session")
def exported(opened, lacks):
    """The function from a bundle's name to the bundle, where that has the official training artifacts."""

    def find(name):
        bundle = opened(name)
        if bundle.manifest.ort_training is None:
            lacks(
                "training-build", f"the bundle {name} has no official training artifacts; its build could not make them"
            )
        return bundle

    return find


@pytest.fixture(scope="session")
def official(exported):
    """As ``exported``, where the runtime can train with the artifacts, too."""
    pytest.importorskip("onnxruntime")
    from fieldtune.hardware.installed import features

    if not features().has_training_api:
        pytest.skip(f"ONNX Runtime {features().version} is not a training build; onnxruntime-training-cpu is")
    return exported


@pytest.fixture(scope="session")
def target_folder(bundle_folder):
    """The folder of a split bundle with prefixes for vek280, kv260 and ryzen-ai-strix."""
    return bundle_folder("split-vision")


@pytest.fixture(scope="session")
def profile():
    from fieldtune.hardware import load_profile

    return load_profile("cpu-generic")


@pytest.fixture(scope="session")
def reviews():
    """The function that makes so many short labelled texts, whose words tell the label."""

    def make(count, seed=0):
        rng = random.Random(seed)
        rows = []
        for index in range(count):
            label, words = ("positive", GOOD) if index % 2 else ("negative", BAD)
            picked = [f"{rng.choice(words)} {rng.choice(NOUNS)}" for _ in range(rng.randint(1, 3))]
            rows.append({"text": " and a ".join(picked), "label": label})
        rng.shuffle(rows)
        return rows

    return make


@pytest.fixture(scope="session")
def dialogues():
    """The function that makes so many question-and-answer rows."""

    def make(count):
        pairs = itertools.cycle(itertools.product(("printer", "screen", "cable"), ("fix", "check", "restart")))
        return [{"prompt": f"my {what}?", "completion": f"{verb} the {what}."} for what, verb in _take(pairs, count)]

    return make


@pytest.fixture
def write_rows(tmp_path):
    """The function that writes rows into a .jsonl file."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def encoded(opened):
    """The function from a bundle's name and rows to what training takes."""
    pytest.importorskip("tokenizers")
    from fieldtune.data.dialogue import PromptExample
    from fieldtune.tasks import open_task
    from fieldtune.tasks.text_classification import ClassificationExample

    def encode(name, rows, **settings):
        task = open_task(opened(name))
        labels = task.spec.labels
        examples = [
            ClassificationExample(text=row["text"], label=labels.index(row["label"]) if row["label"] else None)
            if labels
            else PromptExample(prompt=row["prompt"], completion=row["completion"])
            for row in rows
        ]
        return task.encode(examples, **settings)

    return encode


def _take(items, count):
    return list(itertools.islice(items, count))
