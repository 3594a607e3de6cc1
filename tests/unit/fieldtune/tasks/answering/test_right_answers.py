from fieldtune.data.rows import Row
from fieldtune.tasks.answering.questions import Span
from fieldtune.tasks.answering.right_answers import right_answers

CONTEXT = "Ada was born in London in 1815. She died in London in 1852."
COLUMNS = {name: name for name in ("answers", "answer_start", "is_impossible")} | {"answer": "answers"}


def read(answers, context=CONTEXT, **more):
    """The answers of a row, or what is wrong with it."""
    faults = []
    cells = more if answers is None else {"answers": answers, **more}
    answers = right_answers(Row(1, cells), COLUMNS, context, faults.append)
    return faults or answers


def test_the_forms_of_answers():
    span = (Span("1815", 26),)
    both = {"text": ["1815", "in 1815"], "answer_start": [26, 23]}
    assert read(both) == (Span("1815", 26), Span("in 1815", 23))
    assert read([{"text": "1815", "answer_start": 26}]) == span
    assert read({"text": "1815", "answer_start": 26}) == read({"text": ["1815"]}) == span
    assert read("1815") == read(["1815"]) == read("1815", answer_start="26") == span
    for none in ({"text": [], "answer_start": []}, [], ""):
        assert read(none) == ()
    assert read(None, is_impossible=True) == ()
    assert read("London", answer_start=44) == (Span("London", 44),)


def test_an_answer_that_is_not_in_its_context():
    assert read("Paris") == ["'answers': 'Paris' is not in the context"]
    assert read("london in 1852") == [
        "'answers': 'london in 1852' is not in the context; nearest is 'London in 1852' at 44"
    ]
    assert read("Lon") == ["'answers': 'Lon' is in the context 2 times (at 16, 44); say which by answer_start"]
    assert read("a", "a a a a a a") == [
        "'answers': 'a' is in the context 6 times (at 0, 2, 4, 6, 8, …); say which by answer_start"
    ]
    assert read("in new york", "She lived in  New\nYork and Rome.") == [
        "'answers': 'in new york' is not in the context; nearest is 'in  New\\nYork' at 10"
    ]
    assert read([{"text": "born on London", "answer_start": 8}]) == [
        "'answers'[0]: 'born on London' is not in the context; nearest is 'born in London' at 8"
    ]


def test_a_start_that_is_off():
    def off(start):
        (fault,) = read([{"text": "London", "answer_start": start}])
        return fault.removeprefix("'answers'[0]: ")

    assert off(15) == "answer_start is 15, where the context has ' Londo'; 'London' begins at 16"
    assert off(17) == "answer_start is 17, where the context has 'ondon '; 'London' begins at 16"
    assert off(31) == "answer_start is 31, where the context has ' She d'; 'London' begins at 44"
    assert off(-1) == "answer_start is -1, and the context has 59 characters; 'London' begins at 16"
    assert off(900) == "answer_start is 900, and the context has 59 characters; 'London' begins at 44"
    assert off(True) == "answer_start is a truth value (true); expected the number of a character"
    assert off("x") == "answer_start is a string ('x'); expected the number of a character"
    assert off(16.0) == "answer_start is a number (16.0); expected the number of a character"


def test_answers_of_no_form():
    each = "expected an object with 'text' and 'answer_start'"
    for wrong, fault in (
        (
            {"text": ["1815", "1852"], "answer_start": [26]},
            " has 2 in 'text' and 1 in 'answer_start'; expected as many of each",
        ),
        (
            {"text": ["1815"], "answer_start": 26},
            " has 1 in 'text' and a number (26) in 'answer_start'; expected as many of each",
        ),
        ({"start": 26}, " is an object with 'start'; expected 'text' and 'answer_start'"),
        ([26], f"[0] is a number (26); {each}"),
        ([["1815"]], f"[0] is a list; {each}"),
        (26, " is a number (26); expected a string"),
        (" ", " is empty"),
        ([{"text": None}], "[0] is null; expected a string"),
    ):
        assert read(wrong) == [f"'answers'{fault}"]


def test_is_impossible_and_the_answers_disagree():
    given = [{"text": "1815", "answer_start": 26}]
    assert read(given, is_impossible=True) == ["'answers' holds '1815', but 'is_impossible' says no answer"]
    assert read([], is_impossible=False) == ["'answers' holds none, but 'is_impossible' says that there is one"]
    assert read(given, is_impossible="perhaps") == ["'is_impossible' is a string ('perhaps'); expected true or false"]
    assert read(None, question="?") == ["no column 'answers'; it has 'question'"]


def test_truth_in_the_words_of_tables():
    assert read("", is_impossible="TRUE ") == read("", is_impossible="1") == ()
    assert read("1815", is_impossible="false") == read("1815", is_impossible="") == (Span("1815", 26),)
