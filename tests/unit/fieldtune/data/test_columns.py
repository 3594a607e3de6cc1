import pytest

from fieldtune.data.columns import Available, Choice, available_columns, refuse_parts, refuse_shared
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData


def test_the_column_of_most_rows_is_found() -> None:
    many = [Row(1, {"text": "x", "label": 0}), *[Row(line, {"review": "x", "label": 0}) for line in (2, 3)]]
    assert Available(many).find(("text", "review")) == "review"
    assert Available(many).find(("text", "review"), taken="review") == "text"
    assert Available(many).find(("body",)) is None


def test_a_named_column_must_be_there() -> None:
    columns = Available([Row(1, {"text": "x", "label": 0})])
    assert columns.named("text", {"text": "label"}) == "label"
    with pytest.raises(InvalidData, match=r"no column 'txt', which --text-column names \(did you mean 'text'\?\)"):
        columns.named("text", {"text": "txt"})


def test_every_part_that_a_task_does_not_have_is_named() -> None:
    refuse_parts({"text": "a"}, ("text", "label"), "text-classification")
    with pytest.raises(InvalidData) as caught:
        refuse_parts({"text": "a", "prompt": "b", "image": "c"}, ("text", "label"), "text-classification")
    assert str(caught.value) == (
        "--prompt-column and --image-column cannot be used: the bundle's task is text classification"
    )


def test_what_is_not_named_is_guessed() -> None:
    pair = {"text": "review", "label": "mood"}
    assert Choice.of(pair, {}) == Choice(pair, ("text", "label"))
    assert Choice.of(pair, {"text": "review"}) == Choice(pair, ("label",))


def test_notes_say_what_was_guessed_and_what_is_left() -> None:
    pair = {"text": "review", "label": "mood"}
    assert Choice(pair, ("text", "label")).note(["review", "mood"]) == (
        "columns: text from 'review', label from 'mood' (guessed; name them with --text-column and --label-column)"
    )
    assert Choice(pair, ("label",)).note(["id", "review", "mood"]) == (
        "columns: text from 'review', label from 'mood' (guessed; name it with --label-column); not used: 'id'"
    )
    assert Choice(pair, ()).note(["review", "mood"]) == "columns: text from 'review', label from 'mood'"
    assert Choice({"messages": "messages"}, ("messages",)).note(["messages"]) == "columns: messages from 'messages'"


def test_columns_in_order_of_appearance() -> None:
    assert available_columns([Row(1, {"b": 1}), Row(2, {"a": 1, "b": 2})]) == ["b", "a"]


def test_one_column_is_not_two_parts():
    message = "^question and answer are both column 'q'; give them different columns$"
    with pytest.raises(InvalidData, match=message):
        Choice.of({"question": "q", "context": "c", "answer": "q"}, {})
    refuse_shared({"question": "q", "answer": "a"})
