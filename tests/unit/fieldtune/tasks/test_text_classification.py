import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TextSpec
from fieldtune.data.dialogue import TextExample
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.classification import ClassMeter
from fieldtune.tasks.interface import Figure, Task
from fieldtune.tasks.text_classification import ClassificationExample

Make = Callable[..., Task]


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, task: Task) -> str:
    with pytest.raises(InvalidData) as caught:
        task.read(path)
    return str(caught.value)


def chosen(task: Task, names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
    return dict(task.choose([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)


def test_columns_are_guessed(sentiment: Make) -> None:
    def classification(names: list[str], **more: object) -> dict[str, str]:
        return chosen(sentiment(), names, **more)

    assert classification(["id", "Review", "Sentiment"]) == {"text": "Review", "label": "Sentiment"}
    assert classification(["label", "sentence", "text"]) == {"text": "text", "label": "label"}
    assert classification(["title", "class"]) == {"text": "title", "label": "class"}, "the only one left"
    assert classification(["text", "sentiment", "grade"], label="grade") == {"text": "text", "label": "grade"}
    assert classification(["text", "label"], text="label", label="text") == {"text": "label", "label": "text"}
    assert classification(["text", "label"], labelled=False) == {"text": "text"}
    assert classification(["note", "label"], labelled=False) == {"text": "note"}


def test_the_column_of_most_rows_is_guessed(sentiment: Make) -> None:
    many = [Row(1, {"text": "x", "label": 0}), *[Row(line, {"review": "x", "label": 0}) for line in (2, 3)]]
    assert sentiment().choose(many, {}, labelled=True).columns["text"] == "review"


def test_a_choice_is_needed(sentiment: Make) -> None:
    def classification(names: list[str], **named: str) -> dict[str, str]:
        return chosen(sentiment(), names, **named)

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
    with pytest.raises(InvalidData, match="--image-column cannot be used: the bundle's task is text classification"):
        classification(["text", "label"], image="text")


def test_from_json_lines(tmp_path: Path, sentiment: Make) -> None:
    path = save(tmp_path / "a.jsonl", {"review": "good", "sentiment": "positive"}, {"review": "bad", "sentiment": 0})
    examples, note = sentiment().read(path)
    assert examples == (ClassificationExample(text="good", label=1), ClassificationExample(text="bad", label=0))
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note == (
        "columns: text from 'review', label from 'sentiment' (guessed; name them with --text-column and --label-column)"
    )


def test_from_csv(tmp_path: Path, sentiment: Make) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,text\n1,"two\nlines"\nnegative,one\n')
    examples, _ = sentiment().read(str(path))
    assert examples == (ClassificationExample(text="two\nlines", label=1), ClassificationExample(text="one", label=0))
    assert [example.where for example in examples] == [f"{path}:2", f"{path}:4"]


def test_without_labels(tmp_path: Path, sentiment: Make) -> None:
    path = save(tmp_path / "a.jsonl", {"text": "good", "label": "no such label"}, {"text": "bad"})
    examples, note = sentiment().read(path, labelled=False)
    assert examples == (ClassificationExample(text="good"), ClassificationExample(text="bad"))
    assert note == "columns: text from 'text' (guessed; name it with --text-column); not used: 'label'"


def test_every_fault_of_a_file_at_once(tmp_path: Path, sentiment: Make) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "fine", "label": 1}\n{"text": \n{"text": " ", "label": "positve"}\n{"label": 0}\n'
        '{"text": 7, "label": true}\n[]\n{"text": "x"}\n{"text": "\\ud83d", "label": 1}\n'
    )
    assert message_of(path, sentiment()).splitlines() == [
        f"{path}: 9 faults; the labels are 0 'negative', 1 'positive'",
        f"  - {path}:2: not JSON (Expecting value, column 10)",
        f"  - {path}:3: 'text' is empty",
        f"  - {path}:3: 'label': label 'positve' is unknown (did you mean 'positive'?)",
        f"  - {path}:4: no column 'text'; it has 'label'",
        f"  - {path}:5: 'text' is a number (7); expected a string",
        f"  - {path}:5: 'label': the label is a truth value (true); expected a label's name or its index",
        f"  - {path}:6: a list; expected a JSON object",
        f"  - {path}:7: 'label': no label",
        f"  - {path}:8: 'text' has half of a surrogate pair, which is not text",
    ]


def test_where_the_labels_are_sound_they_are_not_listed(tmp_path: Path, sentiment: Make) -> None:
    path = save(tmp_path / "a.jsonl", *[{"text": "", "label": 1}] * 30)
    lines = message_of(path, sentiment()).splitlines()
    assert lines[0] == f"{path}: 30 faults"
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 10 more"


def test_swapped_columns(tmp_path: Path, sentiment: Make) -> None:
    path = save(tmp_path / "a.jsonl", {"text": "positive", "label": "a film"}, {"text": "negative", "label": "b"})
    assert "are the columns swapped?" in message_of(path, sentiment())
    long = save(tmp_path / "b.jsonl", {"text": "joy", "label": "a long film with a good end"})
    assert "are the columns swapped?" in message_of(long, sentiment())
    wrong = save(tmp_path / "c.jsonl", {"text": "a long film", "label": "joy"}, {"text": "a film", "label": "positive"})
    assert "are the columns swapped?" not in message_of(wrong, sentiment())


def test_columns_that_cannot_be_guessed_come_with_the_other_faults(tmp_path: Path, sentiment: Make) -> None:
    path = tmp_path / "a.csv"
    path.write_text("good film,positive\nbad film,negative\none,two,three\n")
    message = message_of(path, sentiment())
    assert (
        "the columns are 'good film', 'positive'; name it with --label-column (is the header line missing?)" in message
    )
    assert f"{path}:3: 3 cells; the header has 2" in message


def test_no_folder_is_read(tmp_path: Path, sentiment: Make) -> None:
    assert "unknown kind of file" in message_of(tmp_path, sentiment())


def test_texts_become_tokens(bracketed: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    examples = [ClassificationExample(text="ab", label=1), ClassificationExample(text="c")]
    encoded = sentiment(text, bracketed).encode(examples)
    a, b, c = (bracketed.token_to_id(letter) for letter in "abc")
    assert [item.arrays["input_ids"].tolist() for item in encoded.examples] == [[1, a, b, 2], [1, c, 2]]
    assert [item.arrays["labels"].tolist() for item in encoded.examples] == [1, -100]
    assert {array.dtype for item in encoded.examples for array in item.arrays.values()} == {np.dtype(np.int64)}
    assert [item.weight for item in encoded.examples] == [1, 0], "one without a label does not count"
    assert (encoded.truncated, encoded.dropped) == (0, 0)
    assert encoded.lengths.tolist() == [4, 3]


def test_long_texts_keep_their_special_tokens(bracketed: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    examples = [ClassificationExample(text="x" * size, label=0) for size in (3, 4, 40)]
    encoded = sentiment(text, bracketed).encode(examples, max_length=5)
    assert [len(item.arrays["input_ids"]) for item in encoded.examples] == [5, 5, 5]
    assert [item.arrays["input_ids"][[0, -1]].tolist() for item in encoded.examples] == [[1, 2]] * 3
    assert encoded.truncated == 2
    assert len(bracketed.encode("x" * 40).ids) == 42, "the tokenizer is left as it was"


def test_more_texts_than_are_encoded_at_once(bracketed: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    examples = [ClassificationExample(text="x" * (index % 7 + 1), label=index % 2) for index in range(2050)]
    encoded = sentiment(text, bracketed).encode(examples)
    assert encoded.lengths.tolist() == [index % 7 + 3 for index in range(2050)]
    assert [int(item.arrays["labels"]) for item in encoded.examples] == [index % 2 for index in range(2050)]


def test_strict_refuses_long_examples(bracketed: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    examples = [ClassificationExample(text="x" * size, label=0, where=f"a.csv:{size}") for size in (1, 4, 19)]
    task = sentiment(text, bracketed)
    with pytest.raises(InvalidData) as caught:
        task.encode(examples, max_length=5, strict=True)
    assert str(caught.value).splitlines() == [
        "2 example(s) longer than 5 tokens; shorten them",
        "  - a.csv:4: 6 tokens",
        "  - a.csv:19: 21 tokens",
    ]
    assert task.encode(examples, strict=True).truncated == 0


def test_texts_without_a_token(tokenizer: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    with pytest.raises(InvalidData, match=r"1 example.*\n  - example 2: no token"):
        sentiment(text, tokenizer).encode([ClassificationExample(text="a"), ClassificationExample(text="")])


@pytest.mark.parametrize("limit", [2, 201, -1])
def test_lengths_that_the_model_cannot_take(limit: int, bracketed: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    with pytest.raises(InvalidData, match=f"a maximum length of {limit} tokens; this model takes 3 to 200"):
        sentiment(text, bracketed).encode([ClassificationExample(text="a")], max_length=limit)


def test_mistakes_of_a_programmer(tokenizer: Tokenizer, text: TextSpec, sentiment: Make) -> None:
    with pytest.raises(TypeError, match="takes ClassificationExample only"):
        sentiment(text, tokenizer).encode([TextExample(text="a")])


def test_accuracy_is_of_the_examples_with_a_label() -> None:
    def example(label: int) -> Encoded:
        arrays = {"input_ids": np.array([1]), "labels": np.array(label, np.int64)}
        return Encoded(arrays=arrays, weight=0 if label < 0 else 1)

    encoded = EncodedSet(examples=tuple(map(example, (0, 1, 1, -100))))
    meter = ClassMeter(encoded)
    logits = np.array([[2, 1], [2, 1], [0, 3], [0, 3]], np.float32)
    meter.add(np.array([0, 3]), {"labels": np.array([0, -100])}, {"logits": logits[[0, 3]]})
    # Behind the two examples of this batch is a padding row of a static graph.
    meter.add(np.array([1, 2]), {"labels": np.array([1, 1, -100])}, {"logits": logits[1:]})
    assert meter.figures(0.5) == (
        Figure(name="accuracy", value=2 / 3, unit="%"),
        Figure(name="majority_accuracy", value=2 / 3, unit="%", better=None, title="majority class"),
    )
