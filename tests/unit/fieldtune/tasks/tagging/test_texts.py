"""Texts whose words have tags, as messages and the tokenizer take them."""

from fieldtune.tasks.tagging.texts import Span, SpansExample, WordsExample


def test_a_span_is_quoted_from_its_text_and_a_long_one_is_cut():
    assert Span(4, 7, "person").said("see Ann!") == "span 4 to 7 ('Ann')"
    assert Span(0, 60, "place").said("x" * 60) == f"span 0 to 60 ('{'x' * 39}…')"
    assert Span(6, 9, "place").said("short") == "span 6 to 9 ('')"


def test_words_reach_the_tokenizer_with_a_space_between():
    assert WordsExample(words=("New", "York", "...")).text == "New York ..."
    assert WordsExample(words=()).text == ""


def test_where_an_example_stands_is_no_part_of_it():
    assert WordsExample(words=("a",), tags=(0,), where="a:1") == WordsExample(words=("a",), tags=(0,), where="b:2")
    assert SpansExample(text="a", spans=(), where="a:1") == SpansExample(text="a", spans=())
    assert SpansExample(text="a", spans=()) != SpansExample(text="a")
