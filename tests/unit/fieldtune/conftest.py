"""A tokenizer small enough to count by hand, and what tests take as fixtures of ``builders``."""

from typing import TYPE_CHECKING

import pytest

from builders import Graph, text_spec
from fieldtune.bundle.manifest import TextSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}<s>system\nBe brief.</s>\n{% endif %}"
    "<s>{{ message.role }}\n{{ message.content }}</s>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture
def graph():
    """Return the class that makes node tables."""
    return Graph


@pytest.fixture
def tokenizer() -> "Tokenizer":
    """One token a byte, two line breaks joined, three control tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{letter: number for number, letter in enumerate(alphabet, 3)}}
    vocabulary["ĊĊ"] = len(vocabulary)
    built = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ")]))
    built.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in ("<pad>", "<s>", "</s>")])
    # The usual setting, which takes white space off the offsets: a boundary found by offsets would be wrong.
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.post_processor = processors.ByteLevel(trim_offsets=True)
    built.decoder = decoders.ByteLevel()
    return built


@pytest.fixture
def bracketed(tokenizer: "Tokenizer") -> "Tokenizer":
    """Encloses a text in <s> and </s>, as an encoder's tokenizer does."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@pytest.fixture
def text() -> TextSpec:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return text_spec(max_length=200, stop_token_ids=(2,), special_tokens=special, chat_template=CHATML)


@pytest.fixture
def onnx_bytes():
    """The function from ONNX's textual form of a graph, and its initializers as arrays, to the bytes of its file."""
    onnx = pytest.importorskip("onnx")

    def make(text, **initializers):
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for name, value in initializers.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return model.SerializeToString()

    return make
