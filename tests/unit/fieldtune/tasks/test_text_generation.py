import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TextSpec
from fieldtune.data.chat import Message
from fieldtune.data.dialogue import ChatExample, PromptExample, TextExample
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.interface import Figure, Item, Task
from fieldtune.tasks.text_classification import ClassificationExample
from fieldtune.tasks.text_generation import GenerationOptions, Prompt, TokenMeter, Written

Make = Callable[..., Task]


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, task: Task) -> str:
    with pytest.raises(InvalidData) as caught:
        task.read(path)
    return str(caught.value)


def test_columns_of_other_tasks_are_refused(generation: Make) -> None:
    for part in ("image", "label"):
        with pytest.raises(InvalidData, match=f"--{part}-column cannot be used: the bundle's task is text generation"):
            generation().choose([Row(1, {"text": "x"})], {part: "text"}, labelled=True)
    assert dict(generation().choose([Row(1, {"text": "x"})], {}, labelled=True).columns) == {"text": "text"}


def test_conversations(tmp_path: Path, generation: Make) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "tool_calls": None}]
    examples, note = generation().read(save(tmp_path / "a.jsonl", {"messages": turns, "id": 1}))
    expected = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    assert examples == (ChatExample(messages=expected),)
    assert note == "columns: messages from 'messages'; not used: 'id'"


def test_faulty_conversations(tmp_path: Path, generation: Make) -> None:
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
    assert message_of(path, generation()).splitlines() == [
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


def test_conversations_to_run_need_no_answer(tmp_path: Path, generation: Make) -> None:
    path = save(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "Hi"}]})
    examples, _ = generation().read(path, labelled=False)
    assert examples == (ChatExample(messages=(Message(role="user", content="Hi"),)),)


def test_prompts_and_texts(tmp_path: Path, generation: Make) -> None:
    path, task = tmp_path / "a.csv", generation()
    path.write_text("question,answer\nWhy?,Because.\n")
    assert task.read(path)[0] == (PromptExample(prompt="Why?", completion="Because."),)
    assert task.read(path, labelled=False)[0] == (PromptExample(prompt="Why?"),)
    assert task.read(path, {"text": "answer"})[0] == (TextExample(text="Because."),)
    path.write_text("question,answer\n,\n")
    assert message_of(path, task).splitlines()[1:] == [
        f"  - {path}:2: 'question' is empty",
        f"  - {path}:2: 'answer' is empty",
    ]


def lengths(encoded: EncodedSet) -> list[int]:
    return [len(item.arrays["input_ids"]) for item in encoded.examples]


def test_texts_are_cut_from_the_right(tokenizer: Tokenizer, text: TextSpec, generation: Make) -> None:
    plain = dataclasses.replace(text, chat_template=None)
    examples = [PromptExample(prompt="p" * size, completion="cc") for size in (2, 5, 7, 8, 20)]
    encoded = generation(plain, tokenizer).encode(examples, max_length=8)
    assert lengths(encoded) == encoded.lengths.tolist() == [5, 8, 8]
    assert [int((item.arrays["labels"] != -100).sum()) for item in encoded.examples] == [3, 3, 1]
    assert [item.weight for item in encoded.examples] == [3, 3, 1]
    assert (encoded.truncated, encoded.dropped) == (1, 2)


def test_the_first_token_adds_no_weight(tokenizer: Tokenizer, text: TextSpec, generation: Make) -> None:
    # Every token of a whole text has a label, and nothing predicts the first.
    encoded = generation(text, tokenizer).encode([TextExample(text="ab"), TextExample(text="abcd")])
    assert [int((item.arrays["labels"] != -100).sum()) for item in encoded.examples] == [3, 5]
    assert [item.weight for item in encoded.examples] == [2, 4]
    assert encoded.weight([0, 1]) == 6


def test_strict_refuses_long_examples(bracketed: Tokenizer, text: TextSpec, generation: Make) -> None:
    with pytest.raises(InvalidData, match="example 1: 8 tokens"):
        generation(text, bracketed).encode([TextExample(text="x" * 6)], max_length=7, strict=True)


def test_nothing_left_to_learn_from(tokenizer: Tokenizer, text: TextSpec, generation: Make) -> None:
    example = PromptExample(prompt="p" * 20, completion="cc")
    task = generation(text, tokenizer)
    with pytest.raises(InvalidData, match="every example has more than 8 tokens before the first that carries a label"):
        task.encode([example], max_length=8)
    assert task.encode([]).examples == ()


def test_all_faulty_conversations_are_listed(tokenizer: Tokenizer, text: TextSpec, generation: Make) -> None:
    template = "{{ raise_exception('No shouting') if 'HEY' in messages[0].content else messages[0].content }}"
    shouting = dataclasses.replace(text, chat_template=template, stop_token_ids=())
    examples = [
        PromptExample(prompt="HEY", completion="b", where="a.jsonl:1"),
        PromptExample(prompt="hey", completion="b"),
        TextExample(text="x"),
        TextExample(text="xy"),
    ]
    with pytest.raises(InvalidData) as caught:
        generation(shouting, tokenizer).encode(examples)
    assert str(caught.value).splitlines() == [
        "3 example(s) cannot be learned from",
        "  - a.jsonl:1: the chat template refuses these messages: No shouting",
        "  - example 2: no token of it is the model's to write",
        "  - example 3: no token of it is the model's to write",
    ]


def test_mistakes_of_a_programmer(tokenizer: Tokenizer, text: TextSpec, generation: Make) -> None:
    with pytest.raises(TypeError, match="text generation takes"):
        generation(text, tokenizer).encode([ClassificationExample(text="a")])


def test_accuracy_is_of_the_tokens_that_are_predicted() -> None:
    def example(weight: float) -> Encoded:
        return Encoded(arrays={}, weight=weight)

    meter = TokenMeter(EncodedSet(examples=(example(3), example(5))))
    for index, correct in ((0, 1), (1, 3)):
        meter.add(np.array([index]), {}, {"correct": np.array(correct, np.float32)})
    accuracy, perplexity = meter.figures(2.0)
    assert accuracy == Figure(name="token_accuracy", value=0.5, unit="%")
    assert perplexity == Figure(name="perplexity", value=math.exp(2.0), better="lower")
    assert meter.figures(701.0)[1].value == math.inf


def test_an_answer_is_written_once() -> None:
    answer = Written(iter(["so ", "it ", "is"]))
    assert next(iter(answer)) == "so "
    assert str(answer) == "it is"
    assert str(answer) == ""
    assert Written(iter(["a", "b"])).record() == {"answer": "ab"}
    assert Written(iter(["a", "b"])).lines(5) == ["ab"]


def test_prompts_of_a_command_line(generation: Make) -> None:
    def given(**options: Any) -> list[Item]:
        return generation().given(["Why?"], GenerationOptions(**options), print)

    assert given() == [Item("Why?", Prompt("Why?"))]
    assert given(raw=True) == [Item("Why?", Prompt("Why?", raw=True))]
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    assert given(system="Be brief.") == [Item("Why?", Prompt(turns))]
    with pytest.raises(ValueError, match="--system and --raw: a system message needs the chat template"):
        generation().check_options(GenerationOptions(raw=True, system="Be brief."))
