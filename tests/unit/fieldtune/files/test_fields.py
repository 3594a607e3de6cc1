"""Fields: each getter takes what it says and refuses all else by file, key, what was found and what was expected."""

import math
import warnings

import pytest

from fieldtune.errors import InvalidAdapter, InvalidBundle, UnsupportedFormat
from fieldtune.files.fields import Fields, check_version, is_text, parse_json

GETTERS = {
    "text": "word",
    "integer": 3,
    "number": 0.5,
    "flag": True,
    "texts": ["a", "b"],
    "shape": ["batch", 3],
    "sizes": [0, 3],
    "table": {"a": 1},
    "tables": [{"a": 1}],
    "named_tables": {"a": {"b": 1}},
    "plain": {"a": [None]},
    "numbers": [1, 0.5],
    "integers": [-1, 2],
    "optional_table": {"a": 1},
    "optional_text": "word",
    "optional_integer": 3,
    "optional_number": 0.5,
    "scalar": 3,
}
OPTIONAL = [name for name in GETTERS if name.startswith("optional")] + ["scalar"]


def fields(**data):
    return Fields(data, "a.json", InvalidBundle)


def message(getter, value):
    with pytest.raises(InvalidBundle) as caught:
        getattr(fields(key=value), getter)("key")
    return str(caught.value)


@pytest.mark.parametrize("getter", [name for name in GETTERS if "table" not in name])
def test_what_is_of_the_kind_is_returned(getter):
    value = GETTERS[getter]
    found = getattr(fields(key=value), getter)("key")
    assert found == (tuple(value) if isinstance(value, list) else value)


def test_tables_come_back_as_fields_that_know_their_place():
    found = fields(one={"a": "x"}, many=[{"a": "y"}], named={"k": {"a": "z"}}, none=None)
    tables = [found.table("one"), found.optional_table("one"), *found.tables("many"), found.named_tables("named")["k"]]
    assert [table.text("a") for table in tables] == ["x", "x", "y", "z"]
    assert [table.where for table in tables] == [
        "a.json: one",
        "a.json: one",
        "a.json: many[0]",
        "a.json: named: k",
    ]
    assert found.optional_table("none") is None
    assert list(found) == ["one", "many", "named", "none"]


@pytest.mark.parametrize("getter", GETTERS)
def test_a_missing_key_is_named_with_those_that_are_there(getter):
    empty, other = fields(), fields(other=1)
    if getter in OPTIONAL:
        assert getattr(empty, getter)("key") is None
        return
    with pytest.raises(InvalidBundle, match=r"^a\.json: the key 'key' is missing; expected .*, found only: nothing$"):
        getattr(empty, getter)("key")
    with pytest.raises(InvalidBundle, match=r"found only: other$"):
        getattr(other, getter)("key")


@pytest.mark.parametrize("getter", GETTERS)
@pytest.mark.parametrize("value", [None, True, 3, 0.5, "word", [], [None], {}])
def test_a_value_of_another_kind_is_named_with_what_was_expected(getter, value):
    wanted = GETTERS[getter]
    same = type(value) is type(wanted) and value != [None]
    if same or (value is None and getter in OPTIONAL):
        getattr(fields(key=value), getter)("key")
        return
    if type(wanted) is float and type(value) is int:
        assert getattr(fields(key=value), getter)("key") == 3.0
        return
    if getter == "scalar" and isinstance(value, str | float | bool):
        assert getattr(fields(key=value), getter)("key") == value
        return
    found = message(getter, value)
    assert found.startswith("a.json: ")
    assert "key" in found
    assert "expected" in found


def test_a_default_stands_for_a_missing_key_alone():
    assert fields().text("key", "d") == "d"
    assert fields().number("key", math.inf) == math.inf
    assert fields().texts("key", ["a"]) == ("a",)
    assert list(fields().table("key", {"a": 1})) == ["a"]
    with pytest.raises(InvalidBundle, match="'key' is null; expected an integer"):
        fields(key=None).integer("key", 3)


@pytest.mark.parametrize(
    ("getter", "value", "says"),
    [
        ("integer", 1 << 63, "'key' is an integer (of 64 bits); expected one that fits into 64 bits with its sign"),
        ("number", 1 << 100, "'key' is an integer (of 101 bits); expected a number"),
        ("number", math.nan, "'key' is a number (nan); expected a finite one"),
        ("optional_number", -math.inf, "'key' is a number (-inf); expected a finite one"),
        ("numbers", [1, math.inf], "'key' holds a number (inf); expected a finite one, in a list of numbers"),
        ("numbers", [10**400], "expected one that fits into 64 bits with its sign, in a list of numbers"),
        ("integers", [1.0], "'key' holds a number (1.0); expected an integer in each place"),
        ("sizes", [3, -1], "'key' is [3, -1]; expected sizes of at least 0"),
        (
            "sizes",
            [1 << 70],
            "'key' holds an integer (of 71 bits); expected one that fits into 64 bits with its sign in each place",
        ),
        ("shape", [3, -1], "'key' holds -1; expected sizes of at least 0, and names"),
        ("shape", [1.0], "'key' holds a number (1.0); expected an integer, in a list of integers and names"),
        ("text", "\ud800", "'key' is a string ('\\ud800'); expected text, and it has half of a surrogate pair"),
        ("texts", ["a", "\udfff"], "half of a surrogate pair in each place"),
        ("flag", "x" * 1000, f"'key' is a string ('{'x' * 79}…); expected true or false"),
    ],
)
def test_what_nobody_could_compute_with_or_write_again_is_refused(getter, value, says):
    assert says in message(getter, value)


@pytest.mark.parametrize("getter", ["text", "integer", "number", "numbers", "shape", "sizes", "flag"])
def test_an_integer_that_python_refuses_to_write_out_has_its_size_shown(getter):
    """TOML has hexadecimal ones, which are read whatever their length."""
    value = 16**5000
    assert "an integer (of 20001 bits)" in message(
        getter, [value] if getter in ("numbers", "shape", "sizes") else value
    )


def test_bounds_and_choices():
    assert fields(key=2).integer("key", least=2) == 2
    assert fields(key="b").choice("key", ("a", "b")) == "b"
    assert fields().choice("key", ("a", "b"), "a") == "a"
    with pytest.raises(InvalidBundle, match=r"a\.json: 'key' is 1; expected at least 2"):
        fields(key=1).integer("key", least=2)
    with pytest.raises(InvalidBundle, match="'key' is 0; expected at least 1"):
        fields(key=0).optional_integer("key", least=1)
    with pytest.raises(InvalidBundle, match=r"a\.json: 'key' is 'c'; expected one of a, b"):
        fields(key="c").choice("key", ("a", "b"))


def test_a_key_that_is_no_text_is_refused_where_keys_are_names():
    with pytest.raises(InvalidBundle, match=r"a\.json: named: a key is a string \('\\udc00'\)"):
        fields(named={"\udc00": {}}).named_tables("named")


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_document_that_is_no_table(data):
    with pytest.raises(InvalidAdapter, match=r"^b\.json: expected a table, found "):
        Fields(data, "b.json", InvalidAdapter)


def test_keys_that_nobody_asked_for_are_named_at_any_depth():
    found = fields(a=1, b={"c": 1, "e": 2}, d=[{"f": 1}])
    found.integer("a")
    inner = found.table("b")
    inner.integer("c")
    (item,) = found.tables("d")
    with pytest.raises(InvalidBundle, match=r"^a\.json: b: unknown key 'e'; known: c$"):
        found.done()
    inner.integer("e")
    with pytest.raises(InvalidBundle, match=r"^a\.json: d\[0\]: unknown key 'f'; known: $"):
        found.done()
    item.integer("f")
    found.done()
    with pytest.raises(InvalidBundle, match=r"^a\.json: unknown keys 'a', 'z'; known: "):
        fields(z=1, a=2).done()


@pytest.mark.parametrize("text", ["a", "é", "日本", "\U0001f600", ""])
def test_text_can_be_written(text):
    assert is_text(text)
    assert not is_text(f"{text}\ud83d")


def test_json_of_a_text_and_of_bytes():
    assert parse_json('{"a": "é"}', "a.json", InvalidBundle) == {"a": "é"}
    assert parse_json('{"a": "é"}'.encode(), "a.json", InvalidBundle) == {"a": "é"}


@pytest.mark.parametrize(
    "data",
    ["", "{", "{}{}", "\ufeff{}", "[" * 100_000, "1" * 5000, b"\xff\xfe{}", b"", '{"a": 1}'.encode("utf-16")],
    ids=["empty", "truncated", "two", "a mark", "too deep", "too long a number", "a byte", "no byte", "UTF-16"],
)
def test_what_is_no_json(data):
    with pytest.raises(InvalidAdapter, match=r"^a\.json: not JSON \(.+\); copy it again$"):
        parse_json(data, "a.json", InvalidAdapter, "copy it again")
    with pytest.raises(InvalidAdapter, match=r"\)$"):
        parse_json(data, "a.json", InvalidAdapter)


def test_an_equal_or_an_earlier_minor_version_is_read_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not check_version("2.3", "2.3", "a.json")
        assert not check_version("2.0", "2.3", "a.json")


def test_a_later_minor_version_is_read_with_a_warning():
    with pytest.warns(UserWarning, match=r"^a\.json: format 2\.10 is later than 2\.3; keys that this"):
        assert check_version("2.10", "2.3", "a.json")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("3.0", "a.json: format_version is 3.0; this fieldtune reads 2.x: update fieldtune"),
        ("1.9", "a.json: format_version is 1.9; this fieldtune reads 2.x: build it anew"),
    ],
)
def test_another_major_version_is_refused_with_what_to_do(found, says):
    with pytest.raises(UnsupportedFormat) as caught:
        check_version(found, "2.3", "a.json", again="build it anew")
    assert str(caught.value) == says


@pytest.mark.parametrize(
    "found", ["", "2", "2.", ".3", "2.3.1", "2.x", "v2.3", " 2.3", "2.-3", "2_0.3", "²." + "3", "9" * 5000]
)
def test_what_is_no_version(found):
    with pytest.raises(UnsupportedFormat, match=r"^a\.json: format_version is '.*; expected major\.minor, as 2\.3$"):
        check_version(found, "2.3", "a.json")
