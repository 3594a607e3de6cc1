import numpy as np
import pytest

from builders import questions
from fieldtune.bundle.manifest import IGNORE_INDEX, TensorSpec
from fieldtune.data.batches import batch_of
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.answering.questions import Question, QuestionExample
from fieldtune.tasks.answering.scores import QuestionMeter
from fieldtune.tasks.interface import Item
from fieldtune.tasks.question_answering import QuestionOptions
from fieldtune.tasks.text_classification import ClassificationExample


@pytest.fixture
def task(answering, words, text):
    return answering(text, words)


def test_columns_of_other_tasks_are_refused(answering):
    columns = {"question": "x", "context": "x", "answer": "x"}
    with pytest.raises(InvalidData, match="--label-column cannot be used: the bundle's task is question answering"):
        answering().choose([Row(1, columns)], {"label": "answer"}, labelled=True)


def test_windows_take_the_place_of_cuts(task):
    encoded = task.encode(questions(("q", " ".join("abcdefghij"), "f g")), max_length=8, strict=True)
    assert [window.question for window in encoded.windows] == [0] * 4
    assert encoded.truncated == encoded.dropped == 0
    with pytest.raises(InvalidData, match="a maximum length of 300 tokens"):
        task.encode(questions(("q", "a", "a")), max_length=300)


def test_mistakes_of_a_programmer(task):
    with pytest.raises(TypeError, match="takes QuestionExample only"):
        task.encode([ClassificationExample(text="a")])


def test_batches_pad_what_the_graph_takes(task):
    grid, row = ("batch", "sequence"), ("batch",)
    names = {"input_ids": grid, "attention_mask": grid, "token_type_ids": grid, "start_positions": row}
    inputs = [
        TensorSpec(name=name, dtype="int64", shape=shape, pad=IGNORE_INDEX if shape == row else 0)
        for name, shape in names.items()
    ]
    encoded = task.encode(questions(("q", "a b c", "b"), ("q", "a", "a")))
    batch = batch_of(encoded.examples, [0, 1], inputs, shape=(3, 8))
    assert batch["token_type_ids"].tolist()[:2] == [[0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert batch["start_positions"].tolist() == [4, 3, IGNORE_INDEX], "a row of padding has no label"


def measured(task, *pairs, spans):
    """The figures of logits that have these tokens likeliest."""
    encoded = task.encode(questions(*pairs))
    meter = task.meter(encoded)
    length = int(encoded.lengths.max())
    logits = np.zeros((2, len(spans), length), np.float32)
    for row, (start, end) in enumerate(spans):
        logits[0, row, start] = logits[1, row, end] = 5
    order = np.arange(len(spans))[::-1]
    outputs = {"start_logits": logits[0][order], "end_logits": logits[1][order]}
    meter.add(order, {}, outputs)
    return {figure.name: figure.value for figure in meter.figures(1.0)}


def test_figures_of_questions_that_all_have_an_answer(task):
    pairs = (("q", "x y z", "x y"), ("q", "x y z", "z"), ("q", "x y z", "x"), ("q", "x y z", None))
    figures = measured(task, *pairs, spans=[(3, 4), (4, 5), (0, 0), (3, 3)])
    # The third has [CLS] likeliest, which is no answer where all have one; of equals the last token counts.
    assert figures == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 2 / 3) / 3})


def test_figures_of_questions_some_of_which_have_none(task):
    pairs = (("q", "x y z", "x y"), ("q", "x y z", ""), ("q", "x y z", ""), ("q", "x y z", "y"))
    figures = measured(task, *pairs, spans=[(3, 4), (0, 0), (4, 5), (0, 0)])
    assert figures == {"exact_match": 0.5, "f1": 0.5, "f1_answerable": 0.5, "f1_unanswerable": 0.5}


def test_only_its_own_sets_are_measured(task, sentiment, words, text):
    other = sentiment(text, words).encode([ClassificationExample(text="a", label=0)])
    with pytest.raises(TypeError, match="what its own encode returned"):
        task.meter(other)
    assert isinstance(task.meter(task.encode(questions(("q", "a", "a")))), QuestionMeter)


def test_what_options_ask(answering):
    task = answering()
    options = QuestionOptions(question=("Where?", "When?"), context="There.")
    assert task.asking_flags(options) == ("--question",)
    assert task.given([], options, print) == [
        Item("Where?", Question("Where?", "There.")),
        Item("When?", Question("When?", "There.")),
    ]
    about = QuestionOptions(context="There.")
    assert task.asking_flags(about) == ()
    assert task.given(["Why?"], about, print) == [Item("Why?", Question("Why?", "There."))]
    with pytest.raises(InvalidData, match="without the text that holds the answers; give it with --context"):
        task.given(["Why?"], QuestionOptions(), print)
    example = QuestionExample(question="Why?", context="So.", where="a.csv:2")
    assert task.asked(example, QuestionOptions()) == Item("Why?", Question("Why?", "So."))
    with pytest.raises(InvalidData, match=r"a\.csv:2: the file has the contexts; leave --context out"):
        task.asked(example, about)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"question": ("Where?",)}, "--question needs --context"),
        ({"context": " "}, "--context is empty"),
        ({"question": ("\udcff",), "context": "x"}, "--question has half of a surrogate pair"),
        ({"n_best": 0}, "--n-best is 0; expected at least 1"),
        ({"max_answer_length": 0}, "--max-answer-length is 0; expected at least 1"),
        ({"doc_stride": -1}, "--doc-stride is -1; expected at least 0"),
    ],
)
def test_options_that_cannot_be(answering, options, fault):
    with pytest.raises(ValueError, match=fault):
        answering().check_options(QuestionOptions(**options))
