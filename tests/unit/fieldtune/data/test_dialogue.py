import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldtune.bundle.manifest import TextSpec
from fieldtune.data.chat import Message
from fieldtune.data.dialogue import (
    ChatExample,
    GenerationExample,
    PromptExample,
    TextExample,
    choose_dialogue,
    cut,
    encode_dialogue,
    encode_prompt,
)
from fieldtune.data.examples import Encoded
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData


def chat(*contents: str) -> ChatExample:
    roles = ("user", "assistant") * len(contents)
    return ChatExample(messages=tuple(Message(role=r, content=c) for r, c in zip(roles, contents, strict=False)))


def ids_of(encoded: Encoded) -> list[int]:
    return encoded.arrays["input_ids"].tolist()


def learned(encoded: Encoded, tokenizer: Tokenizer) -> str:
    """The text under the labels, with a bar wherever labels pause."""
    input_ids, labels = encoded.arrays["input_ids"], encoded.arrays["labels"]
    assert input_ids.dtype == labels.dtype == np.int64
    assert input_ids.shape == labels.shape == (encoded.length,)
    on = labels != -100
    np.testing.assert_array_equal(labels[on], input_ids[on])
    runs = np.split(labels, np.flatnonzero(np.diff(on)) + 1)
    return "|".join(tokenizer.decode(run.tolist(), skip_special_tokens=False) for run in runs if run[0] != -100)


@pytest.mark.parametrize(
    ("example", "whole", "labelled"),
    [
        (
            chat("Hi", "Hello"),
            "<s>system\nBe brief.</s>\n<s>user\nHi</s>\n<s>assistant\nHello</s>\n",
            "Hello</s>",
        ),
        (
            PromptExample(prompt="Hi", completion="Hello"),
            "<s>system\nBe brief.</s>\n<s>user\nHi</s>\n<s>assistant\nHello</s>\n",
            "Hello</s>",
        ),
        (
            chat("1", "one", "2", "two", "3"),
            (
                "<s>system\nBe brief.</s>\n<s>user\n1</s>\n<s>assistant\none</s>\n"
                "<s>user\n2</s>\n<s>assistant\ntwo</s>\n<s>user\n3</s>\n"
            ),
            "one</s>|two</s>",
        ),
        (TextExample(text="All of it"), "All of it</s>", "All of it</s>"),
    ],
)
def test_labels_lie_on_what_the_model_writes(
    example: GenerationExample, whole: str, labelled: str, tokenizer: Tokenizer, text: TextSpec
) -> None:
    encoded = encode_dialogue(example, tokenizer, text)
    assert tokenizer.decode(ids_of(encoded), skip_special_tokens=False) == whole
    assert learned(encoded, tokenizer) == labelled


def test_a_system_message_replaces_the_template_s_own(tokenizer: Tokenizer, text: TextSpec) -> None:
    turns = (Message(role="system", content="Sing."), *chat("Hi", "La").messages)
    encoded = encode_dialogue(ChatExample(messages=turns), tokenizer, text)
    assert tokenizer.decode(ids_of(encoded), skip_special_tokens=False).startswith("<s>system\nSing.</s>")
    assert learned(encoded, tokenizer) == "La</s>"


def test_a_token_across_the_border_is_the_model_s(tokenizer: Tokenizer, text: TextSpec) -> None:
    # The answer's first line break joins the one that ends the prompt.
    encoded = encode_dialogue(chat("Hi", "\nHello"), tokenizer, text)
    assert learned(encoded, tokenizer) == "\n\nHello</s>"
    labels = encoded.arrays["labels"]
    assert tokenizer.id_to_token(int(labels[labels != -100][0])) == "ĊĊ"


def test_white_space_that_ends_the_prompt_carries_no_label(tokenizer: Tokenizer, text: TextSpec) -> None:
    assert text.chat_template is not None
    template = text.chat_template.replace("<s>assistant\n", "<s>assistant\n\n").replace(
        "<s>{{ message.role }}\n", "<s>{{ message.role }}\n{{ '\n' if message.role == 'assistant' else '' }}"
    )
    encoded = encode_dialogue(chat("Hi", "Hello"), tokenizer, dataclasses.replace(text, chat_template=template))
    assert learned(encoded, tokenizer) == "Hello</s>"


def test_without_a_stop_token_the_whole_turn_is_learned(tokenizer: Tokenizer, text: TextSpec) -> None:
    encoded = encode_dialogue(chat("Hi", "Hello"), tokenizer, dataclasses.replace(text, stop_token_ids=()))
    assert learned(encoded, tokenizer) == "Hello</s>\n"


def test_without_a_template(tokenizer: Tokenizer, bracketed: Tokenizer, text: TextSpec) -> None:
    plain = dataclasses.replace(text, chat_template=None)
    encoded = encode_dialogue(PromptExample(prompt="ab", completion="cd"), bracketed, plain)
    letters = [tokenizer.token_to_id(letter) for letter in "abcd"]
    assert ids_of(encoded) == [1, *letters, 2], "the </s> that the tokenizer puts behind a prompt is gone"
    assert encoded.arrays["labels"].tolist() == [-100, -100, -100, *letters[2:], 2]
    assert ids_of(encode_dialogue(TextExample(text="ab"), bracketed, plain)) == [1, *letters[:2], 2]
    unstopped = dataclasses.replace(plain, stop_token_ids=())
    bracketed.post_processor = None
    assert ids_of(encode_dialogue(TextExample(text="ab"), bracketed, unstopped)) == letters[:2]


def test_the_stop_token_is_the_end_of_sequence_where_that_stops(tokenizer: Tokenizer, text: TextSpec) -> None:
    two = dataclasses.replace(text, stop_token_ids=(1, 2))
    assert ids_of(encode_dialogue(TextExample(text="ab"), tokenizer, two))[-1] == 2
    other = dataclasses.replace(text, stop_token_ids=(1,))
    assert ids_of(encode_dialogue(TextExample(text="ab"), tokenizer, other))[-1] == 1


def test_messages_need_a_template(tokenizer: Tokenizer, text: TextSpec) -> None:
    plain = dataclasses.replace(text, chat_template=None)
    with pytest.raises(InvalidData, match="the model has none; give a prompt and a completion"):
        encode_dialogue(chat("Hi", "Hello"), tokenizer, plain)
    with pytest.raises(InvalidData, match="the model has none"):
        encode_prompt(chat("Hi").messages, tokenizer, plain)


def test_a_template_that_rewrites_earlier_turns(tokenizer: Tokenizer, text: TextSpec) -> None:
    # As templates do that leave out the reasoning of all but the last answer.
    template = "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else '-' }}</s>{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:{% endif %}"
    rewriting = dataclasses.replace(text, chat_template=template)
    with pytest.raises(InvalidData, match="message 2: the chat template writes earlier turns differently"):
        encode_dialogue(chat("Hi", "Hello"), tokenizer, rewriting)


def test_prompts_are_what_precedes_the_labels(tokenizer: Tokenizer, text: TextSpec) -> None:
    for spec in (text, dataclasses.replace(text, chat_template=None)):
        encoded = encode_dialogue(PromptExample(prompt="Hi", completion="Hello"), tokenizer, spec)
        prompt = encode_prompt("Hi", tokenizer, spec)
        assert prompt.dtype == np.int64
        np.testing.assert_array_equal(prompt, encoded.arrays["input_ids"][: len(prompt)])
        assert (encoded.arrays["labels"][: len(prompt)] == -100).all()
        assert encoded.arrays["labels"][len(prompt)] != -100


def test_the_first_token_s_label_does_not_count() -> None:
    def weight(*labels: int) -> float:
        arrays = {"input_ids": np.arange(len(labels)), "labels": np.array(labels)}
        return cut(Encoded(arrays=arrays, weight=0, length=len(labels)), len(labels)).weight

    assert weight(5) == 0
    assert weight(5, -100) == 0
    assert weight(-100, 5) == 1
    assert weight(5, 6, -100, 7) == 2


def test_a_cut_keeps_the_beginning(tokenizer: Tokenizer, text: TextSpec) -> None:
    whole = encode_dialogue(TextExample(text="abcde"), tokenizer, text)
    assert (whole.length, whole.weight, whole.truncated) == (6, 5, False)
    short = cut(whole, 4)
    assert ids_of(short) == ids_of(whole)[:4]
    assert short.arrays["labels"].tolist() == ids_of(whole)[:4]
    assert (short.length, short.weight, short.truncated) == (4, 3, True)
    assert (cut(whole, 6).length, cut(whole, 6).truncated) == (6, False)


def test_it_encodes_what_transformers_encodes(tokenizer: Tokenizer, text: TextSpec) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=text.chat_template, **text.special_tokens
    )
    example = chat("Hi <there>", "  Hello\n\nyou ", "ü", "é")
    conversation = [{"role": turn.role, "content": turn.content} for turn in example.messages]
    expected = theirs.apply_chat_template(conversation, return_dict=False)
    assert ids_of(encode_dialogue(example, tokenizer, text)) == expected
    expected = theirs.apply_chat_template(conversation[:1], add_generation_prompt=True, return_dict=False)
    assert encode_prompt(example.messages[:1], tokenizer, text).tolist() == expected


def generation(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
    return dict(choose_dialogue([Row(1, dict.fromkeys(names, "x"))], named, labelled=labelled).columns)


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
