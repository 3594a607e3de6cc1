"""Node tables written by hand, operator by operator; and a tokenizer small enough to count by hand."""

from typing import TYPE_CHECKING

import pytest

from fieldtune.bundle.manifest import TextSpec
from fieldtune.bundle.node_tables import Node, NodeTable, Quantization, Value

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}<s>system\nBe brief.</s>\n{% endif %}"
    "<s>{{ message.role }}\n{{ message.content }}</s>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


class Graph:
    """A node table in the making; every method returns the name of the value that it adds."""

    def __init__(self, dtype="int8", zero_point=0):
        self.dtype, self.zero_point = dtype, zero_point
        self.inputs, self.initializers, self.values, self.nodes = [], [], {}, []

    def input(self, name, *shape, dtype="float32"):
        self.inputs.append(name)
        self.values[name] = Value(dtype=dtype, shape=shape)
        return name

    def constant(self, name, *shape, dtype="float32", value=None, bytes_=1):
        self.initializers.append(name)
        self.values[name] = Value(dtype=dtype, shape=shape, constant_bytes=bytes_, value=value)
        return name

    def add(self, op, inputs, shape, *, name=None, dtype="float32", macs=(), quantization=None, **attributes):
        name = f"{op}{len(self.nodes)}" if name is None else name
        output = f"{name or op + str(len(self.nodes))}.out"
        self.values[output] = Value(dtype=dtype, shape=shape)
        self.nodes.append(
            Node(
                name=name,
                op=op,
                module="",
                inputs=tuple(inputs),
                outputs=(output,),
                attributes=attributes,
                macs=macs,
                quantization=quantization,
            )
        )
        return output

    def quantize(self, value, position=4, *, dtype=None, zero_point=None, scale=None):
        dtype = dtype or self.dtype
        zero_point = self.zero_point if zero_point is None else zero_point
        quantization = Quantization(
            scale=(2.0**-position if scale is None else scale,), zero_point=(zero_point,), axis=None, dtype=dtype
        )
        quantized = self.add(
            "QuantizeLinear", [value], self.values[value].shape, dtype=dtype, quantization=quantization
        )
        return self.add("DequantizeLinear", [quantized], self.values[value].shape, quantization=quantization)

    def weight(self, name, *shape, position=7, dtype="int8", scale=None, zero_point=0, axis=None):
        stored = self.constant(name, *shape, dtype=dtype, bytes_=Graph.size(shape))
        scale = scale or (2.0**-position,)
        quantization = Quantization(scale=scale, zero_point=(zero_point,) * len(scale), axis=axis, dtype=dtype)
        return self.add("DequantizeLinear", [stored], shape, quantization=quantization)

    def conv(self, value, name, channels=16, kernel=(3, 3), group=1, **changes):
        batch, inner, height, width = self.values[value].shape
        inner //= group or 1
        weight = self.weight(f"{name}.weight", channels, inner, *kernel)
        attributes = {
            "strides": [1, 1],
            "pads": [kernel[0] // 2, kernel[1] // 2] * 2,
            "dilations": [1, 1],
            "kernel_shape": list(kernel),
            "group": group,
        } | changes
        attributes = {key: setting for key, setting in attributes.items() if setting is not None}
        shape = (batch, channels, height, width)
        macs = (*shape, inner, *kernel)
        return self.add("Conv", [value, weight], shape, name=name, macs=macs, **attributes)

    def gemm(self, value, name, out, **changes):
        rows, inner = self.values[value].shape
        weight = self.weight(f"{name}.weight", out, inner)
        return self.add("Gemm", [value, weight], (rows, out), name=name, macs=(rows, out, inner), transB=1, **changes)

    def table(self, *outputs, name="prefix", opset=18):
        return NodeTable(
            graph=name,
            opset=opset,
            inputs=tuple(self.inputs),
            outputs=outputs,
            initializers=tuple(self.initializers),
            values=self.values,
            nodes=tuple(self.nodes),
        )

    @staticmethod
    def size(shape):
        size = 1
        for dim in shape:
            size *= dim
        return size


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
    return TextSpec(
        max_length=200,
        pad_token_id=0,
        stop_token_ids=(2,),
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        chat_template=CHATML,
    )
