"""Raw input to arrays: files into rows and examples, texts into token ids, images into pixels, and batches of them.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.data.batches import batch_of, filled_up, plan_epoch, plan_evaluation, static_shape
    from fieldtune.data.chat import Message
    from fieldtune.data.columns import (
        Available,
        Choice,
        Columns,
        available_columns,
        column_flag,
        refuse_parts,
        refuse_shared,
    )
    from fieldtune.data.dialogue import (
        ChatExample,
        GenerationExample,
        PromptExample,
        TextExample,
        choose_dialogue,
        cut,
        encode_dialogue,
        encode_prompt,
        read_dialogue,
    )
    from fieldtune.data.examples import Encoded, EncodedSet, Example, IntArray
    from fieldtune.data.folders import image_files, left_out, read_folder
    from fieldtune.data.images import ImageExample, encoded_image, is_file, is_folder, load_images
    from fieldtune.data.labels import LabelIndex
    from fieldtune.data.limits import batch_limit, length_limit, prefix_batch
    from fieldtune.data.reading import read_examples
    from fieldtune.data.rows import (
        DELIMITERS,
        JSON_SUFFIXES,
        Fault,
        Report,
        Row,
        checked_text,
        has_column,
        kind_of,
        read_rows,
        shortened,
        text_of,
    )
    from fieldtune.data.tokenizing import (
        checked_limit,
        encode_cut,
        load_tokenizer,
        place_of,
        refuse_empty,
        refuse_longer,
    )

__all__ = [
    "DELIMITERS",
    "JSON_SUFFIXES",
    "Available",
    "ChatExample",
    "Choice",
    "Columns",
    "Encoded",
    "EncodedSet",
    "Example",
    "Fault",
    "GenerationExample",
    "ImageExample",
    "IntArray",
    "LabelIndex",
    "Message",
    "PromptExample",
    "Report",
    "Row",
    "TextExample",
    "available_columns",
    "batch_limit",
    "batch_of",
    "checked_limit",
    "checked_text",
    "choose_dialogue",
    "column_flag",
    "cut",
    "encode_cut",
    "encode_dialogue",
    "encode_prompt",
    "encoded_image",
    "filled_up",
    "has_column",
    "image_files",
    "is_file",
    "is_folder",
    "kind_of",
    "left_out",
    "length_limit",
    "load_images",
    "load_tokenizer",
    "place_of",
    "plan_epoch",
    "plan_evaluation",
    "prefix_batch",
    "read_dialogue",
    "read_examples",
    "read_folder",
    "read_rows",
    "refuse_empty",
    "refuse_longer",
    "refuse_parts",
    "refuse_shared",
    "shortened",
    "static_shape",
    "text_of",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "batches": (
                "batch_of",
                "filled_up",
                "plan_epoch",
                "plan_evaluation",
                "static_shape",
            ),
            "chat": ("Message",),
            "columns": (
                "Available",
                "Choice",
                "Columns",
                "available_columns",
                "column_flag",
                "refuse_parts",
                "refuse_shared",
            ),
            "dialogue": (
                "ChatExample",
                "GenerationExample",
                "PromptExample",
                "TextExample",
                "choose_dialogue",
                "cut",
                "encode_dialogue",
                "encode_prompt",
                "read_dialogue",
            ),
            "examples": (
                "Encoded",
                "EncodedSet",
                "Example",
                "IntArray",
            ),
            "folders": (
                "image_files",
                "left_out",
                "read_folder",
            ),
            "images": (
                "ImageExample",
                "encoded_image",
                "is_file",
                "is_folder",
                "load_images",
            ),
            "labels": ("LabelIndex",),
            "limits": (
                "batch_limit",
                "length_limit",
                "prefix_batch",
            ),
            "reading": ("read_examples",),
            "rows": (
                "DELIMITERS",
                "JSON_SUFFIXES",
                "Fault",
                "Report",
                "Row",
                "checked_text",
                "has_column",
                "kind_of",
                "read_rows",
                "shortened",
                "text_of",
            ),
            "tokenizing": (
                "checked_limit",
                "encode_cut",
                "load_tokenizer",
                "place_of",
                "refuse_empty",
                "refuse_longer",
            ),
        },
    )
