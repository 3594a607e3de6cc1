"""Raw input to arrays: files into rows and examples, texts into token ids, images into pixels, and batches of them.

Nothing here knows a task. The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.data.chat import Message
    from fieldtune.data.examples import Columns, Encoded, EncodedSet, Example

__all__ = ["Columns", "Encoded", "EncodedSet", "Example", "Message"]

__getattr__ = lazy_names(
    __name__,
    {
        "Columns": "fieldtune.data.examples",
        "Encoded": "fieldtune.data.examples",
        "EncodedSet": "fieldtune.data.examples",
        "Example": "fieldtune.data.examples",
        "Message": "fieldtune.data.chat",
    },
)
