"""``fieldtune run``: flags and texts that are refused before any graph is opened."""

import io
import sys

import pytest

from builders import image_spec, manifest, write_bundle
from fieldtune.cli import main

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(tmp_path):
    """The function from a task to the folder of a bundle without any graph."""

    def make(task="text-classification"):
        image = image_spec() if task == "image-classification" else None
        labels = () if task in ("text-generation", "question-answering") else ("negative", "positive")
        contents = {} if image else {"tokenizer.json": b"{}"}
        return str(write_bundle(tmp_path / task, manifest(task=task, labels=labels, image=image), contents).root)

    return make


@pytest.fixture
def refused(bundle, capsys):
    """The function from a task and arguments to the exit code and the one line that is said."""

    def run(task, *arguments):
        code = main(["run", bundle(task), *arguments])
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return code, printed.err.removeprefix("fieldtune: error: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("text-classification", ["--batch-size", "0", "a"], "--batch-size is 0; expected at least 1"),
        ("text-classification", ["--data", "a.csv", "a"], "TEXT and --data: give one or the other"),
        ("text-classification", ["--raw", "--temperature", "1", "a"], "--raw, --temperature: of text generation only"),
        ("text-generation", ["--strict", "a"], "--strict: of text classification, token classification only"),
        ("image-classification", ["--max-length", "9", "a.png"], "--max-length: of "),
        ("text-generation", ["--question", "who?", "a"], "--question: of question answering only"),
        ("question-answering", ["--question", "who?"], "--context"),
        ("question-answering", ["--question", "who?", "--context", "Ann", "--data", "a.csv"], "give one or the other"),
    ],
)
def test_flags_that_do_not_fit_the_task_are_wrong_usage(refused, task, arguments, said):
    code, line = refused(task, *arguments)
    assert code == 2
    assert said in line


def test_a_flag_of_another_task_is_told_with_the_bundles_own(refused, bundle):
    code, line = refused("text-classification", "--raw", "a")
    assert (code, line) == (
        2,
        f"--raw: of text generation only, and {bundle('text-classification')} is for text-classification",
    )


@pytest.mark.parametrize(("text", "fault"), [("  ", "empty"), ("caf\udce9", "not UTF-8")])
def test_a_text_that_is_none_is_named_by_its_number(refused, text, fault):
    assert refused("text-classification", "good", text) == (1, f"text 2 is {fault}; expected text in UTF-8")


@pytest.mark.parametrize(
    ("given", "said"),
    [(b"", "no text: standard input is empty"), (b" \n\r\n", "no text"), (b"caf\xe9", "is not text in UTF-8")],
)
def test_standard_input_without_a_text(refused, monkeypatch, given, said):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    code, line = refused("text-classification")
    assert code == 1
    assert said in line
