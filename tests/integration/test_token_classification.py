"""Named entities from a tiny model to answers: built, trained, evaluated and run through the command lines."""

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification

from fieldtune import Runner, load_profile, open_bundle
from fieldtune.cli import main
from fieldtune.errors import AdapterMismatch
from fieldtune.tasks import open_task
from fieldtune.tasks.tagging.texts import WordsExample
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle

LABELS = ("O", "B-person", "I-person", "B-thing", "I-thing")
PEOPLE, THINGS = ("you", "i", "my cast", "your cast"), ("printer", "screen cable", "keyboard", "printer driver")


@pytest.fixture(scope="module")
def settings(tiny_models):
    return {
        "model": str(tiny_models / "classifier"), "task": "token-classification", "labels": LABELS,
        "method": MethodSpec(rank=4, alpha=8, target_modules=("query", "value", "dense")),
    }  # fmt: skip


@pytest.fixture(scope="module")
def bundle(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("entities") / "bundle"
    build_bundle(BuildSpec(**settings, out=folder))
    return folder


def sentences(seed, count):
    """Who does what with a thing: words and tags."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for kind, choices in (
            ("person", PEOPLE),
            ("", ("fix", "update", "check", "love")),
            ("thing", THINGS),
            ("", (".", "!")),
        ):
            chosen = chance.choice(choices).split()
            words += chosen
            tags += [f"{'I' if place else 'B'}-{kind}" if kind else "O" for place in range(len(chosen))]
        rows.append((words, tags))
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Words and tags as JSON lines to learn, CoNLL columns held out; the first tag of each file lacks its B-."""
    folder = tmp_path_factory.mktemp("data")
    train = [{"tokens": words, "tags": tags} for words, tags in sentences(1, 160)]
    train[0]["tags"] = [train[0]["tags"][0].replace("B-", "I-"), *train[0]["tags"][1:]]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in train))
    blocks = ["".join(f"{w} {t}\n" for w, t in zip(*row, strict=True)) for row in sentences(2, 40)]
    (folder / "eval.conll").write_text("\n".join(blocks))
    return folder


@pytest.fixture(scope="module")
def adapter(bundle, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    arguments = ["--epochs", "4", "--batch-size", "8", "--learning-rate", "5e-3", "--out", str(folder)]
    files = ["--data", str(data / "train.jsonl"), "--eval", str(data / "eval.conll")]
    assert main(["train", str(bundle), *files, *arguments]) == 0
    return folder


def test_the_build_compares_with_torch(bundle):
    manifest = open_bundle(bundle).manifest
    assert (manifest.task.name, manifest.task.labels) == ("token-classification", LABELS)
    assert len(manifest.parity) == 2
    for found in manifest.parity:
        assert found.loss_relative < 1e-5
        assert found.gradient_relative < 1e-4
        assert found.inference_relative < 1e-4
    outputs = {spec.name: spec.shape for spec in manifest.graphs["eval"].outputs}
    assert outputs["logits"] == ("batch", "sequence", 5)
    assert manifest.peft_config["task_type"] == "TOKEN_CLS"


def test_training_learns_the_entities(adapter):
    report = json.loads((adapter / "train_report.json").read_text())
    before, after = (report["evaluations"][place]["evaluation"] for place in (0, -1))
    assert before["f1"] < 0.5
    assert after["f1"] > 0.9
    assert after["strict_f1"] > 0.9
    assert after["loss"] < 0.3 < before["loss"]
    (note,) = report["train_data"]["notes"]
    assert note.startswith("1 tag repaired: BIO does not allow them where they are")
    assert report["evaluation_data"]["notes"] == []
    assert "F1" in (adapter / "report.html").read_text()


def test_evaluation_shows_all_figures(bundle, adapter, data, capsys):
    arguments = ["evaluate", str(bundle), "--data", str(data / "eval.conll"), "--adapter", str(adapter)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name in ("F1", "precision", "recall", "F1, strict", "precision, strict", "recall, strict", "token accuracy"):
        assert name in out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert found["labels"] == sum(len(words) for words, _ in sentences(2, 40)), "a label for each word"
    assert list(found)[3:10] == [
        "f1", "precision", "recall", "strict_f1", "strict_precision", "strict_recall", "token_accuracy",
    ]  # fmt: skip
    assert found["f1"] > 0.9


def test_strict_refuses_what_would_be_repaired(bundle, data, tmp_path, capsys):
    arguments = ["--data", str(data / "train.jsonl"), "--out", str(tmp_path / "a"), "--strict"]
    assert main(["train", str(bundle), *arguments]) == 1
    err = capsys.readouterr().err
    assert "1 tag(s) that BIO does not allow there" in err
    assert "train.jsonl:1: word 1" in err


def test_entities_and_their_places(bundle, adapter, capsys):
    text = "My cast,  update your screen cable!"
    arguments = ["run", str(bundle), "--adapter", str(adapter), text]
    assert main([*arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["text"], record["truncated"]) == (text, False)
    found = record["entities"]
    assert {("person", "My cast"), ("thing", "screen cable")} <= {(one["label"], one["text"]) for one in found}
    for one in found:
        assert text[one["start"] : one["end"]] == one["text"]
        assert 0.2 < one["score"] <= 1
    assert main(arguments) == 0
    assert f"person: My cast (0-7) {100 * found[0]['score']:.1f} %" in capsys.readouterr().out


def test_words_of_a_file_and_their_text_get_the_same_answer(bundle, adapter, data, capsys):
    common = ["run", str(bundle), "--adapter", str(adapter), "--json"]
    assert main([*common, "--data", str(data / "eval.conll")]) == 0
    from_words = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [" ".join(words) for words, _ in sentences(2, 40)]
    assert [record["text"] for record in from_words] == texts
    assert main([*common, *texts]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == from_words


def test_a_longer_text_is_cut_and_says_so(bundle, adapter, capsys):
    long = "i fix the printer " * 40
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["run", str(bundle), "--adapter", str(adapter), "--json", long, "i love it"]) == 0
    said = capsys.readouterr()
    assert "1 of 2 text(s) cut: longer than the limit" in said.err
    first, other = map(json.loads, said.out.splitlines())
    assert (first["truncated"], other["truncated"]) == (True, False)
    assert all(one["end"] < 4 * 64 + 64 for one in first["entities"])
    assert main(["run", str(bundle), "--strict", long]) == 1
    assert "longer than 64 tokens" in capsys.readouterr().err


def test_no_text_changes_another_ones_answer(bundle, adapter):
    opened = open_bundle(bundle)
    runner, task = Runner(opened, load_profile("cpu-generic")), open_task(opened)
    loaded = runner.load_adapter(adapter)
    texts = ["i fix the printer", "you", "your cast and my cast check the printer driver " * 3]
    together = task.answer(runner, texts, loaded)
    for text, found in zip(texts, together, strict=True):
        (alone,) = task.answer(runner, [text], loaded)
        assert [one.text for one in alone.entities] == [one.text for one in found.entities]
        np.testing.assert_allclose(
            [one.score for one in alone.entities], [one.score for one in found.entities], rtol=1e-5
        )


@torch.no_grad()
def test_peft_gives_the_same_tags(bundle, adapter, tiny_models):
    opened = open_bundle(bundle)
    runner, task = Runner(opened, load_profile("cpu-generic")), open_task(opened)
    base = AutoModelForTokenClassification.from_pretrained(tiny_models / "classifier", num_labels=len(LABELS))
    with warnings.catch_warnings():
        # PEFT reads a property that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
    words, _ = sentences(5, 1)[0]
    (example,) = task.encode([WordsExample(words=tuple(words))]).examples
    ids = torch.from_numpy(example.arrays["input_ids"])[None]
    expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    inputs = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
    found = runner.run(inputs, runner.load_adapter(adapter))["logits"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_adapter_of_other_label_names(bundle, adapter, tmp_path):
    opened = open_bundle(bundle)
    runner, task = Runner(opened, load_profile("cpu-generic")), open_task(opened)
    folder = tmp_path / "renamed"
    shutil.copytree(adapter, folder)
    card = json.loads((folder / "fieldtune.json").read_text())

    def named(*labels):
        (folder / "fieldtune.json").write_text(json.dumps({**card, "labels": labels}))
        return runner.load_adapter(folder)

    (found,) = task.answer(runner, ["i fix the printer"], named("O", "B-wer", "I-wer", "B-was", "I-was"))
    assert {one.label for one in found.entities} <= {"wer", "was"}
    with pytest.raises(AdapterMismatch, match="renamed: labels of no scheme: 'a', 'b', 'c', 'd', 'e'"):
        task.answer(runner, ["i fix the printer"], named("a", "b", "c", "d", "e"))


def test_static_and_split_bundles_answer_alike(settings, bundle, tmp_path):
    """The same head and adapter everywhere; a static graph pads rows and tokens, a split one runs its prefix first."""
    opened = open_bundle(bundle)
    texts = ["i fix the printer", "you", "my cast check it"]
    expected = open_task(opened).answer(Runner(opened, load_profile("cpu-generic")), texts)
    static = tmp_path / "static"
    build_bundle(BuildSpec(**settings, out=static, batch=2, sequence=16))
    last = tmp_path / "split"
    build_bundle(BuildSpec(**settings, out=last, split=1, sequence=16))
    for folder in (static, last):
        other = open_bundle(folder)
        found = open_task(other).answer(Runner(other, load_profile("cpu-generic")), texts)
        for one, two in zip(expected, found, strict=True):
            assert [entity[:3] for entity in map(_flat, one.entities)] == [
                entity[:3] for entity in map(_flat, two.entities)
            ]
            scores = [[entity.score for entity in side.entities] for side in (one, two)]
            np.testing.assert_allclose(*scores, rtol=1e-4)


def _flat(entity):
    return entity.label, entity.start, entity.end, entity.score
