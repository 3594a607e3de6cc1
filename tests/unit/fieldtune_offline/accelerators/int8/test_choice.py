"""Which quantizer, and that ours needs no installation."""

from fieldtune_offline.accelerators.int8.choice import choose_quantizer
from fieldtune_offline.accelerators.int8.quantizing import quantize


def test_our_own_is_there_without_a_word():
    said = []
    assert choose_quantizer("ort", said.append) is quantize
    assert said == []
