"""Tags of words: rows and texts that have them, tokens that they stand on, entities that they name, and scores.

The names below are what its task uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.tasks.tagging.entities import Scheme, scheme_of
    from fieldtune.tasks.tagging.named_entities import Entities, named_in
    from fieldtune.tasks.tagging.pieces import Aligned, align
    from fieldtune.tasks.tagging.rows import choose_pair, read_spans, read_tags, read_words, rows_of
    from fieldtune.tasks.tagging.scores import EntityMeter
    from fieldtune.tasks.tagging.texts import SpansExample, TaggedText, WordsExample
    from fieldtune.tasks.tagging.word_tags import from_spans, repair_note, repaired

__all__ = [
    "Aligned",
    "Entities",
    "EntityMeter",
    "Scheme",
    "SpansExample",
    "TaggedText",
    "WordsExample",
    "align",
    "choose_pair",
    "from_spans",
    "named_in",
    "read_spans",
    "read_tags",
    "read_words",
    "repair_note",
    "repaired",
    "rows_of",
    "scheme_of",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "entities": (
                "Scheme",
                "scheme_of",
            ),
            "named_entities": (
                "Entities",
                "named_in",
            ),
            "pieces": (
                "Aligned",
                "align",
            ),
            "rows": (
                "choose_pair",
                "read_spans",
                "read_tags",
                "read_words",
                "rows_of",
            ),
            "scores": ("EntityMeter",),
            "texts": (
                "SpansExample",
                "TaggedText",
                "WordsExample",
            ),
            "word_tags": (
                "from_spans",
                "repair_note",
                "repaired",
            ),
        },
    )
