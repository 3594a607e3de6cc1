"""Which precision a build asks for and a recipe describes; settings that one does not have are refused by flag."""

import pytest

from fieldtune_offline.precisions.table import NAMES, chosen_precision, precision_of
from fieldtune_offline.spec import PrecisionSpec


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({"name": "int8"}, "int8"),
        ({"name": "int4"}, "int4/64/asymmetric"),
        ({"name": "int4", "block": 128, "symmetric": True}, "int4/128/symmetric"),
        ({"name": "nf4"}, "nf4/64/double"),
        ({"name": "nf4", "double_quant": False}, "nf4/64/single"),
    ],
)
def test_what_a_build_asks_for_is_in_the_recipe(settings, recipe):
    chosen = chosen_precision(PrecisionSpec(**settings))
    assert chosen.recipe == recipe
    assert vars(chosen) == vars(precision_of(recipe))


def test_float32_is_no_precision_to_pack_with():
    assert chosen_precision(PrecisionSpec()) is None
    assert NAMES == ("float32", "int8", "int4", "nf4")


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"block": 64}, "--block: the base float32"),
        ({"name": "float32", "double_quant": False}, "--no-double-quant: the base float32"),
        ({"name": "int8", "block": 32}, "--block: the base int8"),
        ({"name": "int8", "symmetric": True}, "--symmetric: the base int8"),
        ({"name": "int4", "double_quant": False}, "--no-double-quant: the base int4"),
        ({"name": "nf4", "block": 64, "symmetric": True}, "--block, --symmetric: the base nf4"),
    ],
)
def test_settings_that_a_precision_does_not_have_are_refused_by_their_flags(settings, flags):
    with pytest.raises(ValueError, match=f"^{flags} has no such setting; leave it out$"):
        chosen_precision(PrecisionSpec(**settings))


@pytest.mark.parametrize("ask", [lambda name: chosen_precision(PrecisionSpec(name=name)), precision_of])
def test_a_name_that_is_unknown_is_refused_with_those_that_there_are(ask):
    with pytest.raises(ValueError, match=r"^base 'int3' is unknown; expected one of float32, int8, int4, nf4$"):
        ask("int3")
