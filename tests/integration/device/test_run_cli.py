import io
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from fieldtune.cli import main

pytest.importorskip("onnxruntime")


def _bundle(name):
    folder = os.environ.get("FIELDTUNE_TEST_BUNDLES")
    if not folder or not (Path(folder) / name / "manifest.json").is_file():
        pytest.skip(f"no bundle {name} in FIELDTUNE_TEST_BUNDLES; make them with tests/tiny_bundles.py")
    return Path(folder) / name


@pytest.fixture
def classifier():
    return _bundle("tiny-classifier")


@pytest.fixture
def model():
    return _bundle("tiny-lm")


@pytest.fixture
def run(capsys):
    """Run the command: return its exit code, what it wrote to stdout, and to stderr."""

    def call(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            code = main(["run", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def stdin(monkeypatch):
    def give(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


def _lines(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def renamed(classifier, tmp_path):
    """An adapter with names of its own for the labels."""
    folder = tmp_path / "renamed"
    shutil.copytree(classifier / "adapter", folder)
    card = {"format_version": "1.0", "base_sha256": None, "task": "text-classification", "labels": ["no", "yes"]}
    (folder / "fieldtune.json").write_text(json.dumps(card))
    return folder


def test_a_text_gets_all_its_probabilities(run, classifier):
    code, out, err = run(classifier, "a good film")
    assert (code, err) == (0, "")
    (row,) = [line for line in out.splitlines() if "a good film" in line]
    (found,) = _lines(run(classifier, "a good film", "--json")[1])
    assert f"{found['label']} {100 * found['probability']:.1f} %" in row
    assert all(label in out for label in ("negative", "positive", "initial adapter"))


def test_several_adapters_are_columns(run, classifier, renamed):
    code, out, _ = run(classifier, "a good film", "bad", "--adapter", classifier / "adapter", "--adapter", renamed)
    assert code == 0
    for text in ("a good film", "bad"):
        (row,) = [line for line in out.splitlines() if line.strip().startswith(text)]
        assert ("negative" in row) == ("no " in row)
        assert ("positive" in row) == ("yes " in row)


def test_json_is_a_line_for_each_text_and_adapter(run, classifier, renamed):
    code, out, err = run(
        classifier, "a good film", "bad", "--adapter", classifier / "adapter", "--adapter", renamed, "--json"
    )
    assert (code, err) == (0, "")
    found = _lines(out)
    own = str(classifier / "adapter")
    assert [(line["text"], line["adapter"]) for line in found] == [
        (text, adapter) for text in ("a good film", "bad") for adapter in (own, str(renamed))
    ]
    assert list(found[0]["probabilities"]) == ["negative", "positive"]
    assert list(found[1]["probabilities"]) == ["no", "yes"]
    assert found[0]["probability"] == found[1]["probability"] == max(found[0]["probabilities"].values())
    assert found[0]["truncated"] is False


def test_texts_of_a_file_and_of_standard_input_get_the_same_answers(run, classifier, stdin, tmp_path):
    texts = ["a good film", "bad", "the plot, the cast"]
    given = _lines(run(classifier, *texts, "--json")[1])
    data = tmp_path / "texts.csv"
    data.write_text('review,label\na good film,positive\nbad,negative\n"the plot, the cast",none\n')
    code, out, err = run(classifier, "--data", data, "--json")
    assert code == 0
    assert _lines(out) == given
    assert "text from 'review'" in err
    stdin(b"\xef\xbb\xbfa good film\r\n\nbad\nthe plot, the cast")
    assert _lines(run(classifier, "--json")[1]) == given


def test_a_text_that_is_cut_is_told(run, classifier):
    code, out, err = run(classifier, "good " * 100, "bad", "--json")
    assert code == 0
    assert "fieldtune: warning: 1 of 2 text(s) cut" in err
    assert [line["truncated"] for line in _lines(out)] == [True, False]
    code, out, err = run(classifier, "good " * 100, "bad", "--strict")
    assert (code, out) == (1, "")
    assert "text 1: 102 tokens" in err


def test_an_answer_is_streamed_and_repeatable(run, model, stdin):
    code, out, err = run(model, "how do you fix it", "--max-new-tokens", 12)
    assert (code, err) == (0, "")
    stdin(b"how do you fix it\n")
    assert run(model, "--max-new-tokens", 12)[1] == out
    drawn = run(model, "how", "--temperature", 1.5, "--top-k", 50, "--seed", 4, "--json")[1]
    assert run(model, "how", "--temperature", 1.5, "--top-k", 50, "--seed", 4, "--json")[1] == drawn
    assert run(model, "how", "--temperature", 1.5, "--top-k", 50, "--seed", 5, "--json")[1] != drawn


def test_template_system_message_and_raw_give_different_prompts(run, model):
    flags = ("--max-new-tokens", 12, "--json")
    answers = [
        _lines(run(model, "how", *more, *flags)[1])[0]["answer"] for more in ((), ("--raw",), ("--system", "be good"))
    ]
    assert len(set(answers)) == 3


def test_prompts_of_a_file(run, model, tmp_path):
    data = tmp_path / "prompts.jsonl"
    turns = [{"role": "system", "content": "be good"}, {"role": "user", "content": "how"}]
    asked = {"messages": turns}
    answered = {"messages": [*turns, {"role": "assistant", "content": "so"}]}
    data.write_text("\n".join(map(json.dumps, (asked, answered))))
    code, out, _ = run(model, "--data", data, "--max-new-tokens", 12, "--json")
    assert code == 0
    (direct,) = _lines(run(model, "how", "--system", "be good", "--max-new-tokens", 12, "--json")[1])
    assert _lines(out) == [direct, direct]
    code, _, err = run(model, "--data", data, "--system", "be bad")
    assert code == 1
    assert f"{data}:1: has a message of the role system already" in err
    assert run(model, "--data", data, "--raw")[0] == 1


def test_several_prompts_are_told_apart(run, model):
    code, out, _ = run(model, "how", "what", "--max-new-tokens", 4)
    assert code == 0
    assert out.startswith("> how\n")
    assert "\n\n> what\n" in out


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("classifier", ["x", "--raw", "--seed", "3"], "--raw, --seed: of text generation only"),
        (
            "model",
            ["x", "--strict", "--max-length", "8"],
            "--max-length, --strict: of text classification, token classification",
        ),
        ("model", ["x", "--raw", "--system", "y"], "--system and --raw"),
        ("classifier", ["x", "--data", "y.csv"], "TEXT and --data"),
        ("classifier", ["x", "--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(run, request, task, arguments, message):
    code, out, err = run(request.getfixturevalue(task), *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("text", ["", "  ", "caf\udce9"])
def test_an_argument_that_is_no_text_is_refused(run, classifier, text):
    code, _, err = run(classifier, "good", text)
    assert code == 1
    assert "error: text 2 is" in err


def test_standard_input_without_text_is_refused(run, classifier, stdin):
    stdin(b"\n\n")
    assert "no text: standard input is empty" in run(classifier)[2]
    stdin(b"caf\xe9")
    assert "standard input is not text in UTF-8" in run(classifier)[2]


def test_an_adapter_for_another_bundle_is_refused_with_its_mismatches(run, classifier, model):
    code, out, err = run(classifier, "good", "--adapter", model / "adapter")
    assert (code, out) == (1, "")
    assert "does not fit the bundle" in err
    assert err.count("\n  - ") > 3
