"""Text in, batches out."""

from fieldtune.data.batches import collate, plan_epoch, plan_evaluation
from fieldtune.data.examples import Columns, Encoded, EncodedSet, Example, Message
from fieldtune.data.reading import load_examples
from fieldtune.data.tokenizing import encode_examples, load_tokenizer

__all__ = [
    "Columns",
    "Encoded",
    "EncodedSet",
    "Example",
    "Message",
    "collate",
    "encode_examples",
    "load_examples",
    "load_tokenizer",
    "plan_epoch",
    "plan_evaluation",
]
