"""How an answer is written: what is out of range, or has no effect, is refused by name."""

import math

import pytest

from fieldtune.serving.generation_settings import GenerationSettings


def test_the_likeliest_token_is_taken_unless_somebody_asks_for_more():
    settings = GenerationSettings()
    assert (settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty) == (0, None, 1, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 1},
        {"temperature": 0.7, "top_k": 1, "top_p": 0.1},
        {"temperature": 5.0, "top_p": 1.0},
        {"repetition_penalty": 0.5},
        {"seed": 0},
    ],
)
def test_what_can_be_drawn_is_taken(settings):
    made = GenerationSettings(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a number of at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1; expected a number of at least 0"),
        ({"temperature": math.nan}, "temperature is nan; expected a number of at least 0"),
        ({"temperature": math.inf}, "temperature is inf; expected a number of at least 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0; expected a number of at least 1"),
        ({"seed": -1}, "seed is -1; expected a number of at least 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0; expected above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5; expected above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": math.nan}, "top_p is nan; expected above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; expected above 0, and 1 for none"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf; expected above 0, and 1 for none"),
        ({"top_k": 5}, "top_k and top_p limit what is drawn, and at temperature 0 nothing is"),
        ({"top_p": 0.5}, "top_k and top_p limit what is drawn, and at temperature 0 nothing is"),
    ],
)
def test_what_is_out_of_range_or_without_effect(settings, says):
    with pytest.raises(ValueError, match=says):
        GenerationSettings(**settings)
