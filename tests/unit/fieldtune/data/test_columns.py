import pytest

from fieldtune.data.columns import (
    Choice,
    available_columns,
    choose_for_classification,
    choose_for_generation,
    choose_for_images,
)
from fieldtune.data.examples import Columns
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData


def rows(*columns: str) -> list[Row]:
    return [Row(1, dict.fromkeys(columns, "x"))]


def classification(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
    return dict(choose_for_classification(rows(*names), Columns(**named), labelled=labelled).columns)


def generation(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
    return dict(choose_for_generation(rows(*names), Columns(**named), labelled=labelled).columns)


def test_classification_guesses() -> None:
    assert classification(["id", "Review", "Sentiment"]) == {"text": "Review", "label": "Sentiment"}
    assert classification(["label", "sentence", "text"]) == {"text": "text", "label": "label"}
    assert classification(["title", "class"]) == {"text": "title", "label": "class"}, "the only one left"
    assert classification(["text", "sentiment", "grade"], label="grade") == {"text": "text", "label": "grade"}
    assert classification(["text", "label"], text="label", label="text") == {"text": "label", "label": "text"}
    assert classification(["text", "label"], labelled=False) == {"text": "text"}
    assert classification(["note", "label"], labelled=False) == {"text": "note"}


def test_the_column_of_most_rows_is_guessed() -> None:
    many = [Row(1, {"text": "x", "label": 0}), *[Row(line, {"review": "x", "label": 0}) for line in (2, 3)]]
    assert choose_for_classification(many, Columns(), labelled=True).columns["text"] == "review"


def test_classification_needs_a_choice() -> None:
    with pytest.raises(InvalidData, match="which column holds the label; the columns are 'text', 'x'; name it with"):
        classification(["text", "x"])
    with pytest.raises(InvalidData, match="which column holds the text; the columns are 'label', 'x', 'y'"):
        classification(["label", "x", "y"])
    with pytest.raises(InvalidData, match=r"no column 'txt', which --text-column names \(did you mean 'text'\?\)"):
        classification(["text", "label"], text="txt")
    with pytest.raises(InvalidData, match="text and label are both column 'text'"):
        classification(["text"], text="text", label="text")
    with pytest.raises(InvalidData, match="--prompt-column cannot be used: the bundle's task is text classification"):
        classification(["text", "label"], prompt="text")


def test_images_guess_and_need_a_choice() -> None:
    def images(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
        return dict(choose_for_images(rows(*names), Columns(**named), labelled=labelled).columns)

    for name in ("image", "file", "Path", "filename", "image_path", "img"):
        assert images(["id", name, "class"]) == {"image": name, "label": "class"}
    assert images(["photo", "class"]) == {"image": "photo", "label": "class"}, "the only one left"
    assert images(["path", "image"], image="path", labelled=False) == {"image": "path"}
    with pytest.raises(InvalidData, match=r"which column holds the image; .*; name it with --image-column"):
        images(["label", "x", "y"])
    with pytest.raises(InvalidData, match="no column 'img', which --image-column names"):
        images(["image", "label"], image="img")
    with pytest.raises(InvalidData, match="--text-column cannot be used: the bundle's task is image classification"):
        images(["image", "label"], text="image")
    with pytest.raises(InvalidData, match="--image-column cannot be used: the bundle's task is text classification"):
        classification(["text", "label"], image="text")
    with pytest.raises(InvalidData, match="--image-column cannot be used: the bundle's task is text generation"):
        generation(["text"], image="text")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["messages", "prompt", "completion"], {"messages": "messages"}),
        (["prompt", "completion"], {"prompt": "prompt", "completion": "completion"}),
        (["prompt", "response"], {"prompt": "prompt", "completion": "response"}),
        (["prompt", "output", "answer"], {"prompt": "prompt", "completion": "answer"}),
        (["Question", "Answer"], {"prompt": "Question", "completion": "Answer"}),
        (["instruction", "output"], {"prompt": "instruction", "completion": "output"}),
        (["prompt", "text"], {"text": "text"}),
        (["text"], {"text": "text"}),
    ],
)
def test_generation_guesses(names: list[str], expected: dict[str, str]) -> None:
    assert generation(names) == expected


def test_generation_named() -> None:
    assert generation(["q", "a", "text"], prompt="q", completion="a") == {"prompt": "q", "completion": "a"}
    assert generation(["q", "answer", "messages"], prompt="q") == {"prompt": "q", "completion": "answer"}
    assert generation(["prompt", "a"], completion="a") == {"prompt": "prompt", "completion": "a"}
    assert generation(["body", "messages"], text="body") == {"text": "body"}
    assert generation(["prompt", "answer"], labelled=False) == {"prompt": "prompt"}
    assert generation(["prompt"], labelled=False) == {"prompt": "prompt"}


def test_generation_needs_a_choice() -> None:
    with pytest.raises(InvalidData, match="the columns are 'q', 'a'; expected messages, prompt and completion"):
        generation(["q", "a"])
    with pytest.raises(InvalidData, match="cannot tell"):
        generation(["q", "a"], prompt="q")
    with pytest.raises(InvalidData, match="--text-column goes without"):
        generation(["q", "a"], prompt="q", text="a")
    with pytest.raises(InvalidData, match="prompt and completion are both column 'q'"):
        generation(["q"], prompt="q", completion="q")
    with pytest.raises(InvalidData, match="--label-column cannot be used"):
        generation(["text"], label="text")


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
