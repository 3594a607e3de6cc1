"""What an example is: as a file holds it, and as token ids or pixels."""

import dataclasses
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]

TEXT_CLASSIFICATION = "text-classification"
TEXT_GENERATION = "text-generation"
IMAGE_CLASSIFICATION = "image-classification"
CLASSIFICATIONS = (TEXT_CLASSIFICATION, IMAGE_CLASSIFICATION)
"""Tasks with one label an example, and logits of the labels."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns of a file hold what; None is guessed from the columns' names."""

    text: str | None = None
    image: str | None = None
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationExample:
    """A text and the index of its class; None where it is to be found out. ``where`` is its ``file:line``."""

    text: str
    label: int | None = None
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageExample:
    """An image's file and the index of its class; None where it is to be found out.

    ``where`` is the ``file:line`` that names it, if a file does.
    """

    path: Path
    label: int | None = None
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatExample:
    """A conversation; its assistant turns carry the loss."""

    messages: tuple[Message, ...]
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PromptExample:
    """A prompt and what should follow it, which carries the loss; an empty completion is still to be generated."""

    prompt: str
    completion: str = ""
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextExample:
    """A whole text, every token of which carries loss."""

    text: str
    where: str = dataclasses.field(default="", compare=False)


GenerationExample: TypeAlias = ChatExample | PromptExample | TextExample
Example: TypeAlias = ClassificationExample | ImageExample | GenerationExample


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """One example as token ids.

    Attributes:
        input_ids: int64, shape (n,).
        labels: int64; shape () for classification: the class, or -100 where it is unknown; shape (n,) for generation:
            the token itself where it carries loss, else -100. They lie beside their tokens: the model shifts.
    """

    input_ids: IntArray
    labels: IntArray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedImage:
    """One image as the graphs take it but for its scale, which batches give it: so it needs a quarter of the memory.

    Attributes:
        pixels: uint8, shape (channels, height, width).
        labels: int64, shape (): the class, or -100 where it is unknown.
    """

    pixels: npt.NDArray[np.uint8]
    labels: IntArray


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSet:
    """The examples of a file as token ids or pixels.

    Attributes:
        examples: in the file's order, all of one kind.
        truncated: how many of them were longer and had their end cut off.
        dropped: how many others are missing because the cut left them without a label.
    """

    examples: tuple[Encoded, ...] | tuple[EncodedImage, ...]
    truncated: int
    dropped: int

    @property
    def lengths(self) -> IntArray:
        """Tokens of each example, int64, shape (examples,); images are all of length 1."""
        lengths = [len(example.input_ids) if isinstance(example, Encoded) else 1 for example in self.examples]
        return np.array(lengths, np.int64)
