"""What holds of most methods, and the words that they share."""

from pathlib import Path

import numpy as np
import pytest

from builders import adapter, lora_adapter, lora_manifest, parameter
from fieldtune.adapters.methods.interface import Method, build_again, some
from fieldtune.bundle.opening import Bundle


class Plain(Method):
    name, title, peft_type = "plain", "Plain", "PLAIN"

    def setting_faults(self, config):
        return []

    def described(self, config):
        return "nothing"


PLAIN = Plain()


def test_it_owns_its_type_alone():
    assert PLAIN.owns({"peft_type": "PLAIN"})
    assert not PLAIN.owns({"peft_type": "LORA"})
    assert not PLAIN.owns({})


def test_nothing_is_scaled_copied_or_faulty_unless_a_method_says_so():
    assert PLAIN.scales(adapter(), ["a", "b"]) == {"a": 1.0, "b": 1.0}
    assert PLAIN.copies(lora_manifest()) == frozenset()
    assert PLAIN.rank_faults(adapter(), ["a"]) == PLAIN.training_faults(adapter(), lora_manifest()) == []
    assert PLAIN.settings({"target_modules": ["q"], "r": 3}) == {"targets": ["q"], "saved": None}


@pytest.mark.parametrize(("bias", "may"), [(None, True), ("none", True), ("all", False), ("lora_only", False)])
def test_a_bias_of_the_base_may_be_lacking_where_the_settings_train_none(bias, may):
    of_base = parameter("q.bias", {"features": 2}, replaces="q.bias")
    assert PLAIN.may_lack({"bias": bias}, of_base) is may
    assert not PLAIN.may_lack({"bias": bias}, parameter("q.lora_A.weight", {"rank": 2}))


def test_facts_of_the_layout_decide_what_is_fed():
    manifest, made = lora_manifest(), lora_adapter()
    fed = PLAIN.feeds(made, Bundle(Path("nowhere"), manifest), least_rank=3)
    for one in manifest.layout.parameters:
        held = made.tensors.tensors[one.key].float32()
        if one.rank_axis is not None:
            widths = [(0, 0), (0, 0)]
            widths[one.rank_axis] = (0, 1)
            held = np.pad(held, widths)
        np.testing.assert_array_equal(fed[one.key], held.T if one.transposed else held, strict=True)
        assert fed[one.key].flags.c_contiguous


def test_what_an_adapter_lacks_is_zeros_or_left_to_the_graph():
    manifest = lora_manifest()
    ranked = [one for one in manifest.layout.parameters if one.rank_axis is not None]
    held = adapter({"peft_type": "PLAIN"}, {one.key: np.ones(one.shape) for one in ranked})
    fed = PLAIN.feeds(held, Bundle(Path("nowhere"), manifest))
    own = [one.key for one in manifest.layout.parameters if one.replaces is None]
    assert list(fed) == own
    (bias,) = [key for key in own if key not in held.tensors.tensors]
    assert fed[bias].tolist() == [0, 0, 0, 0]


def test_words():
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "3 modules (a, …)"
    assert build_again(lora_adapter(), lora_manifest()) == (
        "build a bundle from this adapter: fieldtune-offline build some/base --task text-classification --adapter "
        "some/adapter --out NEW"
    )
