"""The methods, and that both halves know the same ones."""

import pytest

from fieldtune.adapters.methods.table import method_named as device_method
from fieldtune_offline.methods.table import method_named


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "miss"])
def test_both_halves_know_a_method_by_one_name_and_title(name):
    method = method_named(name)
    assert (method.name, method.title) == (name, device_method(name).title)
    assert method_named(name) is method
    assert method.config_class()().peft_type.value in ("LORA", "IA3", "MISS")
    assert method.biases[:1] in ((), ("none",))


def test_a_method_that_is_unknown_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"^method 'lorra' is unknown; expected one of lora, dora, ia3, miss"):
        method_named("lorra")
