"""Texts or images in, batches out."""

from fieldtune.data.batches import batch_of, collate, plan_epoch, plan_evaluation
from fieldtune.data.examples import Columns, Encoded, EncodedImage, EncodedSet, Example, ImageExample, Message
from fieldtune.data.reading import load_examples
from fieldtune.data.tokenizing import encode_examples, load_tokenizer

__all__ = [
    "Columns",
    "Encoded",
    "EncodedImage",
    "EncodedSet",
    "Example",
    "ImageExample",
    "Message",
    "batch_of",
    "collate",
    "encode_examples",
    "load_examples",
    "load_tokenizer",
    "plan_epoch",
    "plan_evaluation",
]
