import dataclasses
import json
import math
from pathlib import Path

import pytest

from fieldtune.files import json_text, json_value


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    size: int
    name: str | None


def test_dataclasses_paths_and_sequences_become_plain_values():
    value = {"parts": (Part(1, "a"), Part(2, None)), "where": Path("/x/y"), "flag": True}
    assert json_value(value) == {
        "parts": [{"size": 1, "name": "a"}, {"size": 2, "name": None}],
        "where": "/x/y",
        "flag": True,
    }


def test_what_json_cannot_say_becomes_null():
    text = json_text([math.nan, math.inf, -math.inf, 0.1])
    assert json.loads(text) == [None, None, None, 0.1]
    assert text.endswith("\n")


def test_text_stays_readable():
    assert json_text({"label": "größer"}, indent=None) == '{"label": "größer"}\n'


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="bytes has no form in JSON"):
        json_text({"data": b"x"})
