"""Question answering from the model to the answer: builds of several architectures, and every command on a tiny one."""

import io
import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.cli import main as fieldtune
from fieldtune.data.batches import batch_of
from fieldtune.hardware import load_profile
from fieldtune.serving.runner import Runner
from fieldtune.tasks.answering.questions import QuestionExample, Span
from fieldtune.tasks.answering.spans import SpanSearch
from fieldtune.tasks.question_answering import QuestionOptions
from fieldtune.tasks.table import open_task
from fieldtune_offline.cli import main as fieldtune_offline
from fieldtune_offline.quiet import quiet_loading

PLOT, CAST = "the plot is dull.", "the cast is great, the acting is fine. the story is not moving."
QUESTIONS = (
    ("what is the plot?", PLOT, "dull"),
    ("how is the acting?", CAST, "fine"),
    ("what is not moving?", CAST, "the story"),
    ("how is the screen?", CAST, ""),
    ("how is the cast?", f"{PLOT} {CAST} {PLOT} {CAST} {PLOT} {CAST}", "great"),
)
SIZES = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def _build(model, out, *more):
    arguments = ["build", str(model), "--task", "question-answering", "--out", str(out), "--rank", "4"]
    assert fieldtune_offline([*arguments, *map(str, more)]) == 0
    return out


@pytest.fixture(scope="module")
def bundle(tiny_models, tmp_path_factory):
    return _build(tiny_models / "classifier", tmp_path_factory.mktemp("bundles") / "questions")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions in SQuAD's nested form; the last needs two windows."""
    articles = []
    for number, (question, context, answer) in enumerate(QUESTIONS):
        answers = [{"text": answer, "answer_start": context.index(answer)}] if answer else []
        asked = {"id": str(number), "question": question, "answers": answers, "is_impossible": not answers}
        articles.append({"title": "film", "paragraphs": [{"context": context, "qas": [asked]}]})
    path = tmp_path_factory.mktemp("data") / "questions.json"
    path.write_text(json.dumps({"version": "v2.0", "data": articles}, indent=1))
    return path


@pytest.fixture(scope="module")
def adapter(bundle, data, tmp_path_factory):
    """An adapter that knows its few questions by heart."""
    out = tmp_path_factory.mktemp("adapters") / "film"
    arguments = ["train", str(bundle), "--data", str(data), "--eval", str(data), "--out", str(out)]
    assert fieldtune([*arguments, "--epochs", "60", "--learning-rate", "1e-2", "--batch-size", "3"]) == 0
    return out


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = fieldtune([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _parity(bundle):
    manifest = open_bundle(bundle).manifest
    assert manifest.parity
    for found in manifest.parity:
        assert found.loss_relative < 1e-6
        assert found.gradient_relative < 2e-5
        assert found.inference_relative < 1e-5
    return {name: [spec.name for spec in graph.inputs] for name, graph in manifest.graphs.items()}


def test_a_build_computes_what_torch_computes(bundle):
    inputs = _parity(bundle)
    assert inputs["infer"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert inputs["eval"] == [*inputs["infer"], "start_positions", "end_positions"]
    assert open_bundle(bundle).manifest.peft_config["task_type"] == "QUESTION_ANS"


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_models_that_know_no_token_types(tmp_path, tiny_models, family):
    torch.manual_seed(0)
    if family == "roberta":
        config = RobertaConfig(**SIZES, intermediate_size=32, max_position_embeddings=66, type_vocab_size=1)
        made, targets = RobertaModel(config, add_pooling_layer=False), ("query", "value")
    else:
        config = DistilBertConfig(vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=32)
        made, targets = DistilBertModel(config), ("q_lin", "v_lin")
    made.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_models / "classifier").save_pretrained(tmp_path / "model")
    inputs = _parity(_build(tmp_path / "model", tmp_path / "bundle", "--target-modules", *targets))
    assert inputs["infer"] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("more", [("--batch", "4", "--sequence", "32"), ("--sequence", "32", "--split", "1")])
def test_static_sizes_and_a_split(tmp_path, tiny_models, data, call, more):
    built = _build(tiny_models / "classifier", tmp_path / "bundle", *more)
    _parity(built)
    code, _, err = call("train", built, "--data", data, "--eval", data, "--out", tmp_path / "out", "--epochs", "1")
    assert code == 0, err
    assert call("run", built, "--data", data, "--adapter", tmp_path / "out", "--json")[0] == 0


def _torch_model(bundle, folder, adapter=None):
    with quiet_loading():
        base = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
        return PeftModel.from_pretrained(base, str(adapter or bundle / "adapter")).eval()


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]], ids=["alone", "beside longer ones"])
def test_losses_are_those_of_transformers_on_its_own_encoding(bundle, tiny_models, rows):
    chosen = [QUESTIONS[row] for row in rows]
    examples = [
        QuestionExample(
            question=question, context=context, answers=(Span(answer, context.index(answer)),) if answer else ()
        )
        for question, context, answer in chosen
    ]
    opened = open_bundle(bundle)
    encoded = open_task(opened).encode(examples)
    batch = batch_of(encoded.examples, np.arange(len(rows)), opened.manifest.graphs["eval"].inputs)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "classifier")
    expected = tokenizer(
        [question for question, _, _ in chosen], [context for _, context, _ in chosen], padding=True,
        return_tensors="np", return_token_type_ids=True,
    )  # fmt: skip
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert np.array_equal(batch[name], expected[name]), name
    starts, ends = [], []
    for row, (_, context, answer) in enumerate(chosen):
        place = context.index(answer)
        starts.append(expected.char_to_token(row, place, 1) if answer else 0)
        ends.append(expected.char_to_token(row, place + len(answer) - 1, 1) if answer else 0)
    assert (batch["start_positions"].tolist(), batch["end_positions"].tolist()) == (starts, ends)
    positions = {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}
    with torch.no_grad():
        torch_found = _torch_model(bundle, tiny_models / "classifier")(
            **{name: torch.from_numpy(array) for name, array in expected.items()}, **positions
        )
    session = onnxruntime.InferenceSession(str(bundle / "graphs" / "eval.onnx"))
    fed = inference_inputs(read_adapter(bundle / "adapter"), opened)
    names = ["loss_sum", "weight", "start_logits", "end_logits"]
    found = dict(zip(names, session.run(names, {**batch, **fed}), strict=True))
    assert found["weight"] == len(rows)
    assert found["loss_sum"] / found["weight"] == pytest.approx(torch_found.loss.item(), rel=1e-6)
    for name in names[2:]:
        assert np.allclose(found[name], getattr(torch_found, name).numpy(), atol=1e-5)


def test_training_learns_the_questions(adapter, bundle, data, call):
    code, out, err = call("evaluate", bundle, "--data", data, "--adapter", adapter, "--json")
    assert code == 0, err
    found = json.loads(out)["evaluation"]
    assert found["exact_match"] == found["f1"] == found["f1_answerable"] == found["f1_unanswerable"] == 1.0
    assert found["loss"] < 0.1
    assert found["examples"] == found["labels"] == 6, "windows"
    assert "5 questions in 6 windows of up to 64 tokens" in json.dumps(json.loads(out)["counts"])
    table = call("evaluate", bundle, "--data", data, "--adapter", adapter)[1]
    assert all(name in table for name in ("exact match", "F1", "F1, answerable", "no answer, unanswerable"))


def test_answers_are_those_of_peft(adapter, bundle, tiny_models, call):
    """The decoded spans of the device, and those of transformers' logits for the tokenizer's own windows."""
    model = _torch_model(bundle, tiny_models / "classifier", adapter)
    opened = open_bundle(bundle)
    task, runner = open_task(opened), Runner(opened, load_profile("cpu-generic"))
    pairs = [(question, context) for question, context, _ in QUESTIONS]
    found = task.answer(runner, pairs, runner.load_adapter(adapter), options=QuestionOptions(unanswerable=True))
    encoded = task.encode([QuestionExample(question=question, context=context) for question, context in pairs])
    search = SpanSearch(encoded)
    for index, example in enumerate(encoded.examples):
        inputs = {name: torch.tensor(example.arrays[name])[None] for name in ("input_ids", "token_type_ids")}
        with torch.no_grad():
            logits = model(**inputs)
        search.add(index, logits.start_logits[0].numpy(), logits.end_logits[0].numpy())
    for index, answer in enumerate(found):
        expected = search.answer(index, unanswerable=True)
        assert (answer.best.answer, answer.best.start) == (expected.best.answer, expected.best.start)
        assert answer.best.probability == pytest.approx(expected.best.probability, abs=1e-4)
    assert [answer.best.answer for answer in found] == [answer or None for _, _, answer in QUESTIONS]


def test_run_answers_questions_about_a_context(adapter, bundle, call):
    code, out, err = call("run", bundle, "--adapter", adapter, "--question", "how is the acting?", "--context", CAST)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    start = CAST.index("fine")
    row = next(line for line in lines if "acting?" in line)
    assert row[-4:-2] == ["fine", row[-3]]
    assert f"[{start}:{start + 4}]" in row
    assert sum("%" in line for line in lines) == 5, "a single question shows the next best answers, too"

    several = ("run", bundle, "--adapter", adapter, "--context", CAST, "--json")
    code, out, err = call(*several, "how is the acting?", "what is not moving?")
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert (first["question"], first["answer"], first["start"]) == ("how is the acting?", "fine", start)
    assert (second["answer"], CAST[second["start"] : second["end"]]) == ("the story", "the story")
    assert 0.5 < first["probability"] <= 1
    assert first["n_best"][0] == {key: first[key] for key in ("answer", "start", "end", "probability")}
    assert len(first["n_best"]) == 20
    asked = ("--question", "how is the acting?", "--question", "what is not moving?")
    assert call(*several, *asked)[1] == out, "the same, said by flags"


def test_run_reads_questions_from_standard_input(adapter, bundle, call, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"how is the acting?\nwhat is not moving?\n")))
    code, out, _ = call("run", bundle, "--adapter", adapter, "--context", CAST, "--json")
    assert code == 0
    assert [json.loads(line)["answer"] for line in out.splitlines()] == ["fine", "the story"]


def test_run_reads_a_file(adapter, bundle, data, call):
    code, out, _ = call("run", bundle, "--adapter", adapter, "--data", data, "--unanswerable", "--json")
    assert code == 0
    answers = [json.loads(line)["answer"] for line in out.splitlines()]
    assert answers == [answer or None for _, _, answer in QUESTIONS]
    code, out, _ = call("run", bundle, "--adapter", adapter, "--data", data, "--json")
    assert None not in [json.loads(line)["answer"] for line in out.splitlines()]
    short = ("--n-best", "3", "--max-answer-length", "1", "--doc-stride", "2")
    code, out, _ = call("run", bundle, "--adapter", adapter, "--data", data, "--json", *short)
    assert code == 0
    assert all(len(json.loads(line)["n_best"]) <= 3 for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (["--question", "who?"], 2, "--question needs --context"),
        (["who?", "--question", "who?", "--context", "x"], 2, "TEXT and --question: give one or the other"),
        (["--data", "DATA", "--question", "?", "--context", "x"], 2, "--data and --question: give one or the other"),
        (["--data", "DATA", "--context", "x"], 1, "the file has the contexts; leave --context out"),
        (["who?"], 1, "questions without the text that holds the answers"),
        (["who?", "--context", "x", "--n-best", "0"], 2, "--n-best is 0; expected at least 1"),
        (["who?", "--context", "x", "--strict"], 2, "--strict: of text classification"),
        (["who?", "--context", "x", "--system", "y"], 2, "--system: of text generation only"),
        (["a " * 70, "--context", "x"], 1, "question 1: the question has 70 tokens"),
    ],
)
def test_run_says_what_is_wrong(bundle, data, call, arguments, code, fault):
    found, _, err = call("run", bundle, *(data if argument == "DATA" else argument for argument in arguments))
    assert (found, fault in err) == (code, True), err


def test_other_tasks_have_no_such_flags(tiny_bundles, call):
    code, _, err = call("run", tiny_bundles / "tiny-classifier", "good", "--n-best", "3")
    assert code == 2
    assert "--n-best: of question answering only" in err
