import json

import pytest

from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.answering.questions import QuestionExample, Span
from fieldtune.tasks.answering.rows import choose_columns

CONTEXT = "Ada was born in London in 1815. She died in London in 1852."


def save(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def nested(path, *questions, context=CONTEXT, indent=1):
    data = {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    path.write_text(json.dumps(data, indent=indent))
    return path


def asked(text="Where?", answers=(), **more):
    return {"id": "1", "question": text, "answers": list(answers), **more}


def message_of(path, task, **named):
    with pytest.raises(InvalidData) as caught:
        task.read(path, named)
    return str(caught.value)


@pytest.mark.parametrize("indent", [None, 1])
def test_the_nested_form(tmp_path, answering, indent):
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


def test_answers_are_not_read_where_they_are_to_be_found_out(tmp_path, answering):
    path = nested(tmp_path / "a.json", asked("Where?", [{"text": "Paris", "answer_start": 1}]), {"question": "Why?"})
    examples, note = answering().read(path, labelled=False)
    assert [example.answers for example in examples] == [None, None]
    assert "answer from" not in note


def test_json_lines(tmp_path, answering):
    both = {"text": ["1815", "in 1815"], "answer_start": [26, 23]}
    rows = (both, [{"text": "1815", "answer_start": 26}], {"text": [], "answer_start": []}, [], "", None, "1852")
    for name in ("a.jsonl", "a.json"):
        records = ({"question": "When?", "context": CONTEXT, "answers": answers} for answers in rows)
        examples, _ = answering().read(save(tmp_path / name, *records))
        none = [()] * 4
        read = [example.answers for example in examples]
        assert read == [(Span("1815", 26), Span("in 1815", 23)), (Span("1815", 26),), *none, (Span("1852", 54),)]
    one = save(tmp_path / "one.json", {"question": "When?", "context": CONTEXT, "answers": both})
    assert len(answering().read(one)[0]) == 1, "a single line is no nested file"


def test_tables(tmp_path, answering):
    path = tmp_path / "a.csv"
    path.write_text(f"q,passage,a,answer_start\nWhen?,{CONTEXT},1815,\nWhere?,{CONTEXT},London,44\nWho?,{CONTEXT},,\n")
    examples, note = answering().read(path, {"question": "q", "answer": "a"})
    assert [example.answers for example in examples] == [(Span("1815", 26),), (Span("London", 44),), ()]
    assert "question from 'q', context from 'passage', answer from 'a', answer_start from 'answer_start'" in note
    assert "--context-column and --answer-start-column" in note
    path.write_text(path.read_text().replace("answer_start", "answer_start,is_impossible").replace(",\n", ",,true\n"))
    assert "4 cells" in message_of(path, answering(), question="q", answer="a")


def test_a_question_or_a_context_that_is_missing(tmp_path, answering):
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


def test_what_is_not_of_the_nested_form(tmp_path, answering):
    def fault(value, indent=1):
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


def test_columns():
    def chosen(names, *, labelled=True, **named):
        return dict(choose_columns([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)

    assert chosen(["Query", "passage", "answer"]) == {"question": "Query", "context": "passage", "answer": "answer"}
    assert chosen(["question", "context", "x"], labelled=False) == {"question": "question", "context": "context"}
    with pytest.raises(InvalidData, match="holds the context and the answer; the columns are 'question', 'x'; name th"):
        chosen(["question", "x"])
    with pytest.raises(InvalidData, match=r"no column 'z', which --context-column names"):
        chosen(["question", "context", "answer"], context="z")
    with pytest.raises(InvalidData, match="question and context are both column 'context'"):
        chosen(["context", "answer"], question="context")
