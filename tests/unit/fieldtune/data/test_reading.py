import json
from pathlib import Path

import pytest

from fieldtune.bundle.manifest import TaskSpec
from fieldtune.data.examples import (
    ChatExample,
    ClassificationExample,
    Columns,
    ImageExample,
    Message,
    PromptExample,
    TextExample,
)
from fieldtune.data.reading import load_examples
from fieldtune.errors import InvalidData


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, task: TaskSpec, columns: Columns | None = None) -> str:
    with pytest.raises(InvalidData) as caught:
        load_examples(path, task, columns)
    return str(caught.value)


def test_classification_from_json_lines(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = save(tmp_path / "a.jsonl", {"review": "good", "sentiment": "positive"}, {"review": "bad", "sentiment": 0})
    examples, note = load_examples(path, sentiment)
    assert examples == (ClassificationExample(text="good", label=1), ClassificationExample(text="bad", label=0))
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note == (
        "columns: text from 'review', label from 'sentiment' (guessed; name them with --text-column and --label-column)"
    )


def test_classification_from_csv(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,text\n1,"two\nlines"\nnegative,one\n')
    examples, _ = load_examples(str(path), sentiment)
    assert examples == (ClassificationExample(text="two\nlines", label=1), ClassificationExample(text="one", label=0))
    assert [example.where for example in examples] == [f"{path}:2", f"{path}:4"]


def test_unlabelled_classification(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = save(tmp_path / "a.jsonl", {"text": "good", "label": "no such label"}, {"text": "bad"})
    examples, note = load_examples(path, sentiment, labelled=False)
    assert examples == (ClassificationExample(text="good"), ClassificationExample(text="bad"))
    assert note == "columns: text from 'text' (guessed; name it with --text-column); not used: 'label'"


def test_every_fault_of_a_file_at_once(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "fine", "label": 1}\n{"text": \n{"text": " ", "label": "positve"}\n{"label": 0}\n'
        '{"text": 7, "label": true}\n[]\n{"text": "x"}\n{"text": "\\ud83d", "label": 1}\n'
    )
    assert message_of(path, sentiment).splitlines() == [
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


def test_at_most_twenty_faults_are_listed(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = save(tmp_path / "a.jsonl", *[{"text": "", "label": 1}] * 30)
    lines = message_of(path, sentiment).splitlines()
    assert lines[0] == f"{path}: 30 faults"
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 10 more"


def test_swapped_columns(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = save(tmp_path / "a.jsonl", {"text": "positive", "label": "a film"}, {"text": "negative", "label": "b"})
    assert "are the columns swapped?" in message_of(path, sentiment)
    long = save(tmp_path / "b.jsonl", {"text": "joy", "label": "a long film with a good end"})
    assert "are the columns swapped?" in message_of(long, sentiment)
    wrong = save(tmp_path / "c.jsonl", {"text": "a long film", "label": "joy"}, {"text": "a film", "label": "positive"})
    assert "are the columns swapped?" not in message_of(wrong, sentiment)


def test_empty_files(tmp_path: Path, sentiment: TaskSpec) -> None:
    for name, content in (("a.jsonl", ""), ("b.jsonl", "\n \n"), ("a.csv", ""), ("b.csv", "text,label\n")):
        (tmp_path / name).write_text(content)
        assert "holds no examples" in message_of(tmp_path / name, sentiment)
    (tmp_path / "c.jsonl").write_text("{\n")
    assert "c.jsonl: 1 fault\n" in message_of(tmp_path / "c.jsonl", sentiment)


def test_columns_that_cannot_be_guessed_come_with_the_other_faults(tmp_path: Path, sentiment: TaskSpec) -> None:
    path = tmp_path / "a.csv"
    path.write_text("good film,positive\nbad film,negative\none,two,three\n")
    message = message_of(path, sentiment)
    assert (
        "the columns are 'good film', 'positive'; name it with --label-column (is the header line missing?)" in message
    )
    assert f"{path}:3: 3 cells; the header has 2" in message


def test_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task 'translation'"):
        load_examples(tmp_path / "a.jsonl", TaskSpec(name="translation", labels=()))


def test_conversations(tmp_path: Path, generation: TaskSpec) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "tool_calls": None}]
    examples, note = load_examples(save(tmp_path / "a.jsonl", {"messages": turns, "id": 1}), generation)
    expected = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    assert examples == (ChatExample(messages=expected),)
    assert note == "columns: messages from 'messages'; not used: 'id'"


def test_faulty_conversations(tmp_path: Path, generation: TaskSpec) -> None:
    def turn(role: object = "assistant", content: object = "Hello", **more: object) -> dict[str, object]:
        return {"role": role, "content": content, **more}

    path = save(
        tmp_path / "a.jsonl",
        {"messages": [turn("user")]},
        {"messages": []},
        {"messages": "Hi"},
        {"prompt": "Hi"},
        {"messages": [turn("asistant"), "Hi", turn(content=None), turn(tool_calls=[1])]},
    )
    assert message_of(path, generation).splitlines() == [
        f"{path}: 8 faults",
        f"  - {path}:1: no assistant message, so nothing to learn from",
        f"  - {path}:2: 'messages' is an empty list; expected a list of messages",
        f"  - {path}:3: 'messages' is a string ('Hi'); expected a list of messages",
        f"  - {path}:4: no column 'messages'; it has 'prompt'",
        (
            f"  - {path}:5: message 1: role is a string ('asistant') (did you mean 'assistant'?); "
            "expected one of system, developer, user, assistant, tool"
        ),
        f"  - {path}:5: message 2 is a string ('Hi'); expected an object with role and content",
        f"  - {path}:5: message 3: content is null; expected a string",
        f"  - {path}:5: message 4 has 'tool_calls'; only role and content are supported",
    ]


def test_conversations_to_run_need_no_answer(tmp_path: Path, generation: TaskSpec) -> None:
    path = save(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "Hi"}]})
    examples, _ = load_examples(path, generation, labelled=False)
    assert examples == (ChatExample(messages=(Message(role="user", content="Hi"),)),)


def test_prompts_and_texts(tmp_path: Path, generation: TaskSpec) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\nWhy?,Because.\n")
    assert load_examples(path, generation)[0] == (PromptExample(prompt="Why?", completion="Because."),)
    assert load_examples(path, generation, labelled=False)[0] == (PromptExample(prompt="Why?"),)
    assert load_examples(path, generation, Columns(text="answer"))[0] == (TextExample(text="Because."),)
    path.write_text("question,answer\n,\n")
    assert message_of(path, generation).splitlines()[1:] == [
        f"  - {path}:2: 'question' is empty",
        f"  - {path}:2: 'answer' is empty",
    ]


def test_images_lie_where_the_file_says(tmp_path: Path, brightness: TaskSpec) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(b"")
    absolute = str(tmp_path / "photos" / "b.png")
    path = save(
        tmp_path / "a.jsonl", {"file": "photos/a.png", "label": "light"}, {"file": absolute, "label": 0, "text": "x"}
    )
    examples, note = load_examples(path, brightness)
    assert examples == (
        ImageExample(path=tmp_path / "photos" / "a.png", label=1),
        ImageExample(path=tmp_path / "photos" / "b.png", label=0),
    )
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note.startswith("columns: image from 'file', label from 'label' (guessed; name them with --image-column and")
    assert load_examples(path, brightness, labelled=False)[0][0] == ImageExample(path=tmp_path / "photos" / "a.png")


def test_every_image_that_is_missing_is_named(tmp_path: Path, brightness: TaskSpec) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,label\nx.png,dark\n,light\n" + "long " * 100 + ",grey\n")
    lines = message_of(path, brightness).splitlines()
    assert lines[0] == f"{path}: 4 faults; the labels are 0 'dark', 1 'light'"
    assert lines[1] == f"  - {path}:2: 'image': no such file ({tmp_path / 'x.png'})"
    assert lines[2] == f"  - {path}:3: 'image' is empty"
    assert lines[3].startswith(f"  - {path}:4: 'image': no such file (")
    assert lines[4] == f"  - {path}:4: 'label': label 'grey' is unknown"


def test_a_folder_is_read_for_images_only(tmp_path: Path, brightness: TaskSpec, sentiment: TaskSpec) -> None:
    (tmp_path / "dark").mkdir()
    (tmp_path / "dark" / "a.png").write_bytes(b"")
    examples, note = load_examples(tmp_path, brightness)
    assert examples == (ImageExample(path=tmp_path / "dark" / "a.png", label=0),)
    assert note == "1 images, labelled by 1 folders"
    assert "unknown kind of file" in message_of(tmp_path, sentiment)
