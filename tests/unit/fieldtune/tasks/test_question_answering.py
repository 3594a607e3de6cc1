import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fieldtune.bundle.manifest import IGNORE_INDEX, TensorSpec, TextSpec
from fieldtune.data.batches import batch_of
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.answer_spans import (
    Candidate,
    FoundAnswer,
    Question,
    QuestionExample,
    QuestionMeter,
    QuestionSet,
    Span,
    SpanSearch,
    Window,
    exact_match,
    f1,
    normalized,
)
from fieldtune.tasks.interface import Item, Task
from fieldtune.tasks.question_answering import QuestionAnswering, QuestionOptions
from fieldtune.tasks.text_classification import ClassificationExample

Make = Callable[..., Task]
CONTEXT = "Ada was born in London in 1815. She died in London in 1852."


@pytest.fixture
def words() -> Tokenizer:
    """A token a word or mark, [CLS] question [SEP] context [SEP], types 0 and 1."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    for word in (*"abcdefghijklmnopqrstuvwxyz", "?", "."):
        vocabulary[word] = len(vocabulary)
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


@pytest.fixture
def task(answering: Make, words: Tokenizer, text: TextSpec) -> Task:
    return answering(text, words)


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def nested(path: Path, *questions: object, context: object = CONTEXT, indent: int | None = 1) -> Path:
    data = {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    path.write_text(json.dumps(data, indent=indent))
    return path


def asked(text: str = "Where?", answers: object = (), **more: object) -> dict[str, object]:
    return {"id": "1", "question": text, "answers": list(answers), **more}


def message_of(path: Path, task: Task, **named: str) -> str:
    with pytest.raises(InvalidData) as caught:
        task.read(path, named)
    return str(caught.value)


# --- files


@pytest.mark.parametrize("indent", [None, 1])
def test_the_nested_form(tmp_path: Path, answering: Make, indent: int | None) -> None:
    path = nested(
        tmp_path / "squad.json",
        asked("Born where?", [{"text": "London", "answer_start": 16}, {"text": "in London", "answer_start": 13}]),
        asked("Married whom?", is_impossible=True, plausible_answers=[{"text": "Ada", "answer_start": 0}]),
        asked("Died when?", [{"text": "1852", "answer_start": 54}], is_impossible=False),
        indent=indent,
    )
    examples, note = answering().read(path)
    assert examples == (
        QuestionExample(question="Born where?", context=CONTEXT, answers=(Span("London", 16), Span("in London", 13))),
        QuestionExample(question="Married whom?", context=CONTEXT, answers=()),
        QuestionExample(question="Died when?", context=CONTEXT, answers=(Span("1852", 54),)),
    )
    assert examples[2].where == f"{path}:data[0].paragraphs[0].qas[2]"
    assert "question from 'question', context from 'context', answer from 'answers'" in note


def test_answers_are_not_read_where_they_are_to_be_found_out(tmp_path: Path, answering: Make) -> None:
    path = nested(tmp_path / "a.json", asked("Where?", [{"text": "Paris", "answer_start": 1}]), {"question": "Why?"})
    examples, note = answering().read(path, labelled=False)
    assert [example.answers for example in examples] == [None, None]
    assert "answer from" not in note


def test_json_lines(tmp_path: Path, answering: Make) -> None:
    both = {"text": ["1815", "in 1815"], "answer_start": [26, 23]}
    rows = (both, [{"text": "1815", "answer_start": 26}], {"text": [], "answer_start": []}, [], "", None, "1852")
    for name in ("a.jsonl", "a.json"):
        records = ({"question": "When?", "context": CONTEXT, "answers": answers} for answers in rows)
        examples, _ = answering().read(save(tmp_path / name, *records))
        none: list[tuple[Span, ...]] = [()] * 4
        found = [example.answers for example in examples]
        assert found == [(Span("1815", 26), Span("in 1815", 23)), (Span("1815", 26),), *none, (Span("1852", 54),)]
    one = save(tmp_path / "one.json", {"question": "When?", "context": CONTEXT, "answers": both})
    assert len(answering().read(one)[0]) == 1, "a single line is no nested file"


def test_tables(tmp_path: Path, answering: Make) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"q,passage,a,answer_start\nWhen?,{CONTEXT},1815,\nWhere?,{CONTEXT},London,44\nWho?,{CONTEXT},,\n")
    examples, note = answering().read(path, {"question": "q", "answer": "a"})
    assert [example.answers for example in examples] == [(Span("1815", 26),), (Span("London", 44),), ()]
    assert "question from 'q', context from 'passage', answer from 'a', answer_start from 'answer_start'" in note
    assert "--context-column and --answer-start-column" in note
    path.write_text(path.read_text().replace("answer_start", "answer_start,is_impossible").replace(",\n", ",,true\n"))
    assert "4 cells" in message_of(path, answering(), question="q", answer="a")


def test_an_answer_that_is_not_in_its_context(tmp_path: Path, answering: Make) -> None:
    path = save(
        tmp_path / "a.jsonl",
        *(
            {"question": "Where?", "context": CONTEXT, "answer": answer}
            for answer in ("Paris", "london in 1852", "Lon")
        ),
        {"question": "Where?", "context": "She lived in  New\nYork and Rome.", "answer": "in new york"},
        {"question": "Where?", "context": CONTEXT, "answers": [{"text": "born at London", "answer_start": 8}]},
    )
    message = message_of(path, answering())
    assert f"{path}:1: 'answer': 'Paris' is not in the context\n" in message
    assert f"{path}:2: 'answer': 'london in 1852' is not in the context; nearest is 'London in 1852' at 44" in message
    assert f"{path}:3: 'answer': 'Lon' is in the context 2 times (at 16, 44); say which by answer_start" in message
    assert "'in new york' is not in the context; nearest is 'in  New\\nYork' at 10" in message
    assert f"{path}:5: no column 'answer'" in message, "the column that most rows have is taken"


def test_an_answer_that_is_nearly_in_its_context(tmp_path: Path, answering: Make) -> None:
    path = nested(tmp_path / "a.json", asked("Where?", [{"text": "born on London", "answer_start": 8}]))
    assert "'answers'[0]: 'born on London' is not in the context; nearest is 'born in London' at 8" in message_of(
        path, answering()
    )


def test_a_start_that_is_off(tmp_path: Path, answering: Make) -> None:
    def start(value: object, text: str = "London") -> dict[str, object]:
        return asked("Where?", [{"text": text, "answer_start": value}])

    path = nested(
        tmp_path / "a.json", start(15), start(17), start(31), start(-1), start(900), start(True), start("x"),
        start(16.0),
    )  # fmt: skip
    lines = message_of(path, answering()).splitlines()
    assert lines[0] == f"{path}: 8 faults"
    said = [line.partition("'answers'[0]: ")[2] for line in lines[1:]]
    assert said[0] == "answer_start is 15, where the context has ' Londo'; 'London' begins at 16"
    assert said[1] == "answer_start is 17, where the context has 'ondon '; 'London' begins at 16"
    assert said[2] == "answer_start is 31, where the context has ' She d'; 'London' begins at 44"
    assert said[3] == "answer_start is -1, and the context has 59 characters; 'London' begins at 16"
    assert said[4] == "answer_start is 900, and the context has 59 characters; 'London' begins at 44"
    assert said[5] == "answer_start is a truth value (true); expected the number of a character"
    assert said[6] == "answer_start is a string ('x'); expected the number of a character"
    assert said[7] == "answer_start is a number (16.0); expected the number of a character"


def test_answers_of_no_form(tmp_path: Path, answering: Make) -> None:
    wrong = (
        {"text": ["1815", "1852"], "answer_start": [26]},
        {"text": ["1815"], "answer_start": 26},
        {"start": 26},
        [26],
        [["1815"]],
        26,
        " ",
        [{"text": None}],
    )
    path = save(tmp_path / "a.jsonl", *({"question": "?", "context": CONTEXT, "answers": one} for one in wrong))
    said = [line.partition("jsonl:")[2] for line in message_of(path, answering()).splitlines()[1:]]
    assert said == [
        "1: 'answers' has 2 in 'text' and 1 in 'answer_start'; expected as many of each",
        "2: 'answers' has 1 in 'text' and a number (26) in 'answer_start'; expected as many of each",
        "3: 'answers' is an object with 'start'; expected 'text' and 'answer_start'",
        "4: 'answers'[0] is a number (26); expected an object with 'text' and 'answer_start'",
        "5: 'answers'[0] is a list; expected an object with 'text' and 'answer_start'",
        "6: 'answers' is a number (26); expected a string",
        "7: 'answers' is empty",
        "8: 'answers'[0] is null; expected a string",
    ]


def test_is_impossible_and_the_answers_disagree(tmp_path: Path, answering: Make) -> None:
    given = [{"text": "1815", "answer_start": 26}]
    path = nested(
        tmp_path / "a.json",
        asked("?", given, is_impossible=True),
        asked("?", is_impossible=False),
        asked("?", given, is_impossible="perhaps"),
        {"question": "?"},
        {"question": "?", "is_impossible": True},
    )
    said = [line.partition("qas")[2] for line in message_of(path, answering()).splitlines()[1:]]
    assert said == [
        "[0]: 'answers' holds '1815', but 'is_impossible' says no answer",
        "[1]: 'answers' holds none, but 'is_impossible' says that there is one",
        "[2]: 'is_impossible' is a string ('perhaps'); expected true or false",
        "[3]: no column 'answers'; it has 'context', 'question'",
    ]


def test_a_question_or_a_context_that_is_missing(tmp_path: Path, answering: Make) -> None:
    path = save(
        tmp_path / "a.jsonl",
        {"question": "?", "context": CONTEXT, "answers": []},
        {"context": CONTEXT, "answers": []},
        {"question": 1, "context": "", "answers": []},
    )
    said = message_of(path, answering()).splitlines()
    assert said[1:] == [
        f"  - {path}:2: no column 'question'; it has 'context', 'answers'",
        f"  - {path}:3: 'question' is a number (1); expected a string",
        f"  - {path}:3: 'context' is empty",
    ]


def test_what_is_not_of_the_nested_form(tmp_path: Path, answering: Make) -> None:
    def fault(value: object, indent: int | None = 1) -> str:
        path = tmp_path / "a.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=indent))
        return message_of(path, answering()).replace(str(path), "FILE")

    form = 'expected SQuAD\'s form {"data": ['
    assert fault({"question": "?", "context": "c"}).startswith(
        f"FILE: an object with 'question', 'context', no 'data'; {form}"
    )
    assert fault({"data": {"a": 1}}).startswith(f"FILE: an object with 'data', 'data' is an object; {form}")
    assert fault([{"question": "?"}]).startswith(f"FILE: a list; {form}")
    assert fault('{"data": [\n{"paragraphs": [}\n]}').startswith("FILE:2: not JSON (Expecting value, column 17); ")
    assert "holds no examples" in fault({"data": []})
    said = fault(
        {
            "data": [
                7,
                {"title": "x"},
                {"paragraphs": {}},
                {"paragraphs": [{"qas": []}, {"context": CONTEXT}, {"context": CONTEXT, "qas": [{"id": "1"}]}]},
            ]
        }
    )
    assert said.splitlines()[1:] == [
        "  - FILE:data[0]: a number (7); expected an object",
        "  - FILE:data[1]: no 'paragraphs'; it has 'title'",
        "  - FILE:data[2].paragraphs: an object; expected a list",
        "  - FILE:data[3].paragraphs[0]: no 'context'; it has 'qas'",
        "  - FILE:data[3].paragraphs[1]: no 'qas'; it has 'context'",
        "  - FILE:data[3].paragraphs[2].qas[0]: no 'question'; it has 'id'",
    ]
    assert ":2: not JSON" in fault('{"question": "?", "context": "c", "answers": []}\n{"question": \n')


def test_columns(answering: Make) -> None:
    def chosen(names: Sequence[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
        return dict(answering().choose([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)

    assert chosen(["Query", "passage", "answer"]) == {"question": "Query", "context": "passage", "answer": "answer"}
    assert chosen(["question", "context", "x"], labelled=False) == {"question": "question", "context": "context"}
    with pytest.raises(InvalidData, match="holds the context and the answer; the columns are 'question', 'x'; name th"):
        chosen(["question", "x"])
    with pytest.raises(InvalidData, match=r"no column 'z', which --context-column names"):
        chosen(["question", "context", "answer"], context="z")
    with pytest.raises(InvalidData, match="question and context are both column 'context'"):
        chosen(["context", "answer"], question="context")
    with pytest.raises(InvalidData, match="--label-column cannot be used: the bundle's task is question answering"):
        chosen(["question", "context", "answer"], label="answer")


# --- windows


def questions(*pairs: tuple[str, str, str | None]) -> list[QuestionExample]:
    """Pairs of question and context, and the answer: "" for none there, None for what is to be found out."""
    return [
        QuestionExample(
            question=question,
            context=context,
            answers=None if answer is None else (Span(answer, context.index(answer)),) if answer else (),
        )
        for question, context, answer in pairs
    ]


def test_a_short_context_is_one_window(task: Task) -> None:
    encoded = task.encode(questions(("  q ?", "a bb c.", "bb c"), ("q ?", "a b", ""), ("q ?", "a b", None)))
    assert isinstance(encoded, QuestionSet)
    first, second, third = encoded.examples
    assert first.arrays["input_ids"].tolist() == [2, 20, 30, 3, 4, 1, 6, 31, 3], "space before the question is nothing"
    assert first.arrays["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert (first.arrays["start_positions"], first.arrays["end_positions"]) == (5, 6)
    assert first.arrays["start_positions"].dtype == np.int64
    assert first.arrays["start_positions"].shape == ()
    assert (second.arrays["start_positions"], second.arrays["end_positions"]) == (0, 0)
    assert (third.arrays["start_positions"], third.arrays["end_positions"]) == (IGNORE_INDEX, IGNORE_INDEX)
    assert [example.weight for example in encoded.examples] == [1, 1, 0]
    assert [example.length for example in encoded.examples] == [9, 7, 7]
    assert encoded.windows[0].offsets.tolist() == [*[[-1, -1]] * 4, [0, 1], [2, 4], [5, 6], [6, 7], [-1, -1]]
    assert encoded.notes == ("3 questions in 3 windows of up to 200 tokens",)
    assert encoded.truncated == encoded.dropped == 0


def test_a_long_context_is_several_windows_that_overlap(task: Task) -> None:
    context = " ".join("abcdefghij")
    encoded = task.encode(questions(("q", context, "f g"), ("q", "a b", "b")), max_length=8, strict=True)
    assert isinstance(encoded, QuestionSet)
    # Four tokens of the context beside [CLS] q [SEP] … [SEP], of which half are in the window before.
    pieces = [
        context[window.offsets[3, 0] : window.offsets[-2, 1]] for window in encoded.windows if window.question == 0
    ]
    assert pieces == ["a b c d", "c d e f", "e f g h", "g h i j"]
    starts = [int(example.arrays["start_positions"]) for example in encoded.examples]
    ends = [int(example.arrays["end_positions"]) for example in encoded.examples]
    assert (starts, ends) == ([0, 0, 4, 0, 4], [0, 0, 5, 0, 4]), "where only a part of the answer is, it is not"
    assert [window.question for window in encoded.windows] == [0, 0, 0, 0, 1]
    assert encoded.notes == ("2 questions in 5 windows of up to 8 tokens",)
    assert isinstance(task, QuestionAnswering)
    wide = task._windows(questions(("q", context, None)), 8, 1)
    assert [window.offsets[3, 0] for window in wide.windows] == [0, 6, 12], "a stride of 1"


def test_an_answer_in_the_middle_of_tokens_gets_all_of_them(task: Task) -> None:
    (example,) = task.encode(questions(("q", "aa bcd efg", "cd ef"))).examples
    assert (example.arrays["start_positions"], example.arrays["end_positions"]) == (4, 5)
    (last,) = task.encode(questions(("q", "aa bcd efg", "efg"))).examples
    assert (last.arrays["start_positions"], last.arrays["end_positions"]) == (5, 5)


def test_questions_that_leave_no_room(task: Task) -> None:
    long = questions(("a b c d e", "x y", "x"), ("a", "x y", "x"), ("a b c d e f", "x", "x"))
    with pytest.raises(InvalidData, match=r"2 question\(s\).* a window of 8 tokens has 3 of its own") as caught:
        task.encode(long, max_length=8)
    assert "example 1: the question has 5 tokens" in str(caught.value)
    assert "example 3: the question has 6 tokens" in str(caught.value)
    assert len(task.encode(long[:2], max_length=9).examples) == 3, "a room of one token is a room"


def test_what_has_no_token(task: Task) -> None:
    with pytest.raises(InvalidData, match="example 1: no token of the question"):
        task.encode([QuestionExample(question="\u2028", context="a", answers=())])
    with pytest.raises(InvalidData, match="example 1: no token of the context"):
        task.encode([QuestionExample(question="a", context="\u2028", answers=())])
    with pytest.raises(TypeError, match="takes QuestionExample only"):
        task.encode([ClassificationExample(text="a")])


def test_batches_pad_what_the_graph_takes(task: Task) -> None:
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


# --- decoding


def searched(
    logits: Sequence[tuple[Sequence[float], Sequence[float]]], context: str = "a b c", **settings: int
) -> SpanSearch:
    """A search over windows [CLS] a b c [SEP] of one question, with these start and end logits."""
    offsets = np.array([[-1, -1], [0, 1], [2, 3], [4, 5], [-1, -1]], np.int32)
    windows = tuple(Window(0, offsets) for _ in logits)
    encoded = QuestionSet(examples=(), questions=(QuestionExample(question="q", context=context),), windows=windows)
    search = SpanSearch(encoded, **settings)
    for index, (starts, ends) in enumerate(logits):
        search.add(index, np.array(starts, np.float32), np.array(ends, np.float32))
    return search


def said(found: FoundAnswer) -> list[str | None]:
    return [candidate.answer for candidate in found.n_best]


def test_the_best_span_wins() -> None:
    # "c" begins and "a" ends best, which is no span; outside the context nothing counts.
    search = searched([([9, 1, 2, 4, 9], [9, 4, 1, 2, 9])])
    found = search.answer(0, unanswerable=False)
    assert found.best == found.n_best[0]
    assert (found.best.answer, found.best.start, found.best.end) == ("c", 4, 5)
    assert said(found) == ["c", "a", "b c", "b", "a b c", "a b"]
    scores = np.array([6, 5, 4, 3, 3, 2])
    expected = np.exp(scores) / np.exp(scores).sum()
    probabilities = [found.n_best[index].probability for index in range(6)]
    assert sorted(probabilities) == pytest.approx(sorted(expected))
    assert math.fsum(probabilities) == pytest.approx(1)


def test_an_answer_has_a_longest_length_and_the_list_an_end() -> None:
    logits = [([0, 9, 1, 1, 0], [0, 1, 1, 9, 0])]
    assert searched(logits).answer(0, unanswerable=False).best.answer == "a b c"
    assert searched(logits, max_answer_length=2).answer(0, unanswerable=False).best.answer in ("a", "b c", "a b")
    assert len(searched(logits, n_best=3).answer(0, unanswerable=False).n_best) == 3
    one = searched(logits, n_best=1).answer(0, unanswerable=False)
    assert (one.best.answer, one.best.probability) == ("a b c", 1.0)


def test_no_answer_is_one_where_it_may_be() -> None:
    search = searched([([5, 1, 2, 4, 0], [5, 4, 1, 2, 0])])
    assert search.answer(0, unanswerable=False).best.answer == "c"
    found = search.answer(0, unanswerable=True)
    assert found.best == Candidate(answer=None, start=None, end=None, probability=found.n_best[0].probability)
    assert said(found)[:2] == [None, "c"]
    assert found.best.probability == pytest.approx(1 / (1 + sum(math.exp(score - 10) for score in (6, 5, 4, 3, 3, 2))))


def test_an_answer_goes_before_none_of_the_same_score() -> None:
    found = searched([([3, 1, 2, 4, 0], [3, 4, 1, 2, 0])]).answer(0, unanswerable=True)
    assert found.best.answer == "c"


def test_every_window_has_to_say_that_there_is_no_answer() -> None:
    sure, unsure = ([9, 0, 0, 0, 0], [9, 0, 0, 0, 0]), ([1, 0, 3, 0, 0], [1, 0, 0, 3, 0])
    assert searched([sure]).answer(0, unanswerable=True).best.answer is None
    found = searched([sure, unsure]).answer(0, unanswerable=True)
    assert found.best.answer == "b c"
    assert said(found)[1:3] == ["b", "c"] or None in said(found)


def test_no_answer_stays_in_a_full_list() -> None:
    found = searched([([-9, 5, 5, 5, 0], [-9, 5, 5, 5, 0])], n_best=3).answer(0, unanswerable=True)
    assert len(found.n_best) == 4
    assert said(found)[-1] is None


def test_where_no_span_can_be_there_is_no_answer() -> None:
    found = searched([([9, 0, 0, 0, 8], [9, 0, 0, 0, 8])], n_best=2).answer(0, unanswerable=False)
    assert (found.best.answer, found.best.probability, len(found.n_best)) == (None, 1.0, 1)


def test_padding_takes_no_part() -> None:
    logits = ([0, 1, 2, 3, 0], [0, 1, 2, 3, 0])
    padded = (np.array([*logits[0], 99, 98], np.float32), np.array([*logits[1], 99, 98], np.float32))
    search = searched([logits])
    again = searched([logits])
    again.add(0, *padded)
    assert again.answer(0, unanswerable=True) == search.answer(0, unanswerable=True)


def slowly(
    windows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n_best: int, longest: int, *, unanswerable: bool
) -> list[tuple[float, int, int]]:
    """The n-best list by its definition, one pair after the other: (score, start, end), no answer as (0, 0)."""
    spans: list[tuple[float, int, int]] = []
    none = math.inf
    for start_logits, end_logits, offsets in windows:
        none = min(none, float(start_logits[0] + end_logits[0]))
        for start in sorted(range(len(offsets)), key=lambda index: -start_logits[index])[:n_best]:
            for end in sorted(range(len(offsets)), key=lambda index: -end_logits[index])[:n_best]:
                in_context = offsets[start, 0] >= 0 and offsets[end, 0] >= 0
                if in_context and start <= end < start + longest:
                    score = float(start_logits[start] + end_logits[end])
                    spans.append((score, int(offsets[start, 0]), int(offsets[end, 1])))
    if unanswerable:
        spans.append((none, 0, 0))
    kept = sorted(spans, key=lambda span: -span[0])[:n_best]
    return kept if not unanswerable or (none, 0, 0) in kept else [*kept, (none, 0, 0)]


@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize("n_best", [4, 20])
def test_the_search_finds_what_the_definition_says(n_best: int, *, unanswerable: bool) -> None:
    rng = np.random.default_rng(3)
    context = "x" * 200
    for _ in range(50):
        windows, logits = [], []
        for number in range(int(rng.integers(1, 4))):
            tokens = np.arange(30) + 20 * number
            offsets = np.concatenate([np.full((5, 2), -1), np.stack([2 * tokens, 2 * tokens + 1], 1), [[-1, -1]]])
            windows.append(Window(0, offsets.astype(np.int32)))
            logits.append(tuple(rng.normal(0, 4, 36).astype(np.float32) for _ in range(2)))
        questions = (QuestionExample(question="q", context=context),)
        search = SpanSearch(
            QuestionSet(examples=(), questions=questions, windows=tuple(windows)), n_best=n_best, max_answer_length=7
        )
        # Batches are sorted by length: windows do not come in their order.
        for index in reversed(range(len(windows))):
            search.add(index, *logits[index])
        found = search.answer(0, unanswerable=unanswerable)
        given = [(*pair, window.offsets) for pair, window in zip(logits, windows, strict=True)]
        expected = slowly(given, n_best, 7, unanswerable=unanswerable)
        if not expected:
            assert found.best.answer is None
            continue
        places = [(one.start or 0, one.end or 0) for one in found.n_best]
        assert places == [(start, end) for _, start, end in expected]
        scores = np.array([score for score, _, _ in expected])
        powers = np.exp(scores - scores.max())
        assert [one.probability for one in found.n_best] == pytest.approx(list(powers / powers.sum()), rel=1e-5)


# --- figures


def test_what_is_compared() -> None:
    assert normalized("The  Eiffel-Tower, a\ttower!") == "eiffeltower tower"
    assert normalized("an athenaeum in Athens") == "athenaeum in athens", "articles are whole words"
    assert normalized("the") == ""


@pytest.mark.parametrize(
    ("answer", "right", "exact", "overlap"),
    [
        ("the Black Cat.", ["black cat"], 1, 1),
        ("black", ["the black cat"], 0, 2 / 3),
        ("a cat and a cat", ["cat"], 0, 0.5),
        ("cat cat", ["cat dog cat"], 0, 0.8),
        ("dog", ["cat"], 0, 0),
        ("1815", ["in 1815", "1815", "the year"], 1, 1),
        ("in the year", ["1815", "in 1815"], 0, 0.5),
        ("", [], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [], 0, 0),
        ("the", ["cat"], 0, 0),
        ("", ["the", "?"], 1, 1),
        ("?", ["cat", "the"], 0, 0),
    ],
)
def test_exact_match_and_f1(answer: str, right: list[str], exact: float, overlap: float) -> None:
    assert exact_match(answer, right) == exact
    assert f1(answer, right) == pytest.approx(overlap)


def measured(task: Task, *pairs: tuple[str, str, str | None], spans: Sequence[tuple[int, int]]) -> dict[str, float]:
    """The figures of logits that have these tokens likeliest."""
    encoded = task.encode(questions(*pairs))
    meter = task.meter(encoded)
    length = int(encoded.lengths.max())
    logits = np.zeros((2, len(spans), length), np.float32)
    for row, (start, end) in enumerate(spans):
        logits[0, row, start] = logits[1, row, end] = 5
    order = np.arange(len(spans))[::-1]
    found = {"start_logits": logits[0][order], "end_logits": logits[1][order]}
    meter.add(order, {}, found)
    return {figure.name: figure.value for figure in meter.figures(1.0)}


def test_figures_of_questions_that_all_have_an_answer(task: Task) -> None:
    pairs = (("q", "x y z", "x y"), ("q", "x y z", "z"), ("q", "x y z", "x"), ("q", "x y z", None))
    found = measured(task, *pairs, spans=[(3, 4), (4, 5), (0, 0), (3, 3)])
    # The third has [CLS] likeliest, which is no answer where all have one; of equals the last token counts.
    assert found == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 2 / 3) / 3})


def test_figures_of_questions_some_of_which_have_none(task: Task) -> None:
    pairs = (("q", "x y z", "x y"), ("q", "x y z", ""), ("q", "x y z", ""), ("q", "x y z", "y"))
    found = measured(task, *pairs, spans=[(3, 4), (0, 0), (4, 5), (0, 0)])
    assert found == {"exact_match": 0.5, "f1": 0.5, "f1_answerable": 0.5, "f1_unanswerable": 0.5}


def test_only_its_own_sets_are_measured(task: Task, sentiment: Make, words: Tokenizer, text: TextSpec) -> None:
    other = sentiment(text, words).encode([ClassificationExample(text="a", label=0)])
    with pytest.raises(TypeError, match="what its own encode returned"):
        task.meter(other)
    assert isinstance(task.meter(task.encode(questions(("q", "a", "a")))), QuestionMeter)


# --- answers


def test_how_an_answer_is_told() -> None:
    one = Candidate(answer="Lon\ndon", start=3, end=10, probability=0.75)
    none = Candidate(answer=None, start=None, end=None, probability=0.25)
    found = FoundAnswer(best=none, n_best=(one, none))
    assert found.lines(5) == ["no answer 25.0 %", "Lon don 75.0 % [3:10]"]
    assert found.lines(1) == ["no answer 25.0 %"]
    assert json.loads(json.dumps(found.record())) == {
        "answer": None, "start": None, "end": None, "probability": 0.25,
        "n_best": [dataclasses.asdict(one), dataclasses.asdict(none)],
    }  # fmt: skip
    assert found.truncated is False


def test_what_options_ask(answering: Make) -> None:
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
def test_options_that_cannot_be(answering: Make, options: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        answering().check_options(QuestionOptions(**options))  # type: ignore[arg-type]
