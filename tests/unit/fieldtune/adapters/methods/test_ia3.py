"""IA³ on the device: factors, fed as they are."""

from pathlib import Path

import numpy as np
import pytest

from builders import adapter, layout, manifest, parameter
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.methods.ia3 import METHOD
from fieldtune.adapters.methods.table import method_of
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import InvalidAdapter

KEY = "base_model.model.bert.key.ia3_l"
CONFIG = {"peft_type": "IA3", "target_modules": ["key", "dense"], "feedforward_modules": ["dense"]}


def ia3(**config):
    return adapter({**CONFIG, **config}, {KEY: [[1.0], [2.0], [3.0]]})


def test_it_owns_its_type():
    assert method_of(CONFIG) is METHOD
    assert not METHOD.owns({"peft_type": "LORA"})


def test_what_is_written_is_read(tmp_path):
    write_adapter(ia3(), tmp_path / "a")
    found = read_adapter(tmp_path / "a")
    assert (found.config, dict(found.tensors.tensors)) == (CONFIG, dict(ia3().tensors.tensors))
    assert "# IA³ adapter" in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("inputs", "described"),
    [
        (["dense", "a"], "factors of outputs; of inputs in a, dense"),
        (".*dense", "factors of outputs; of inputs in .*dense"),
        ([], "factors of outputs"),
        (None, "factors of outputs"),
    ],
)
def test_it_says_what_its_factors_are_of(inputs, described):
    config = {**CONFIG, "feedforward_modules": inputs}
    assert METHOD.setting_faults(config) == []
    assert METHOD.described(config) == described
    assert METHOD.settings(config) == {"targets": ["key", "dense"], "saved": None, "feedforward": inputs}


@pytest.mark.parametrize("inputs", [3, True, {"dense": 1}, [1, "dense"], [None]])
def test_modules_that_are_no_list_are_refused(tmp_path, inputs):
    write_adapter(ia3(feedforward_modules=inputs), tmp_path / "a")
    with pytest.raises(InvalidAdapter, match=r"\n  - feedforward_modules .*: expected a list of names of modules, or"):
        read_adapter(tmp_path / "a")


def test_factors_are_fed_as_they_are():
    facts = {"module": "bert.key", "decay": False}
    described = manifest(method="ia3", layout=layout(parameter(KEY, {"out_features": 3, "one": 1}, **facts)))
    fed = METHOD.feeds(ia3(), Bundle(Path("nowhere"), described))
    np.testing.assert_array_equal(fed[KEY], np.array([[1], [2], [3]], np.float32), strict=True)
    assert METHOD.scales(ia3(), ["bert.key"]) == {"bert.key": 1.0}
    assert METHOD.rank_faults(ia3(), ["bert.key"]) == []
    assert METHOD.training_faults(ia3(), described) == []
