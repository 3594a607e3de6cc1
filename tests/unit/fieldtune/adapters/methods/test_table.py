"""The methods that the device knows: by name, and by what PEFT wrote."""

import pytest

from fieldtune.adapters.methods.table import all_methods, method_named, method_of
from fieldtune.errors import InvalidBundle


def test_every_method_goes_by_its_name():
    names = [method.name for method in all_methods()]
    assert names == ["dora", "lora", "ia3", "miss"]
    assert [method_named(name) for name in names] == list(all_methods())


def test_a_method_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(InvalidBundle) as caught:
        method_named("vera", "some/base")
    assert str(caught.value) == (
        "some/base: adapts by the method 'vera', which this fieldtune does not know (it knows dora, lora, ia3, miss); "
        "update fieldtune"
    )


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"peft_type": "LORA"}, "lora"),
        ({"peft_type": "LORA", "use_dora": True}, "dora"),
        ({"peft_type": "IA3"}, "ia3"),
        ({"peft_type": "MISS"}, "miss"),
    ],
)
def test_a_configuration_is_of_one_method_alone(config, name):
    assert method_of(config).name == name
    assert [method.name for method in all_methods() if method.owns(config)] in ([name], ["dora", "lora"])


@pytest.mark.parametrize("config", [{}, {"peft_type": "VERA"}, {"peft_type": None}, {"peft_type": ["LORA"]}])
def test_another_configuration_is_of_none(config):
    assert method_of(config) is None
