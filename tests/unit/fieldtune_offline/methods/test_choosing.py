"""Which method a build adapts by: named, or told by a file; and settings that are another method's."""

import json
from pathlib import Path

import pytest

from fieldtune.errors import UnsupportedModel
from fieldtune_offline import BuildSpec, MethodSpec
from fieldtune_offline.cli import main
from fieldtune_offline.methods.choosing import chosen_method
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.methods.lora import METHOD


@pytest.fixture
def chosen(tmp_path):
    """The function from settings, and fields of a file, to the method."""

    def choose(fields=None, adapter=None, **settings):
        if fields is not None:
            (tmp_path / "peft.json").write_text(json.dumps(fields))
            settings["peft_config"] = tmp_path / "peft.json"
        spec = BuildSpec(model="m", task="text-classification", out=tmp_path / "out", adapter=adapter,
                         method=MethodSpec(**settings))  # fmt: skip
        return chosen_method(spec)

    return choose


def test_lora_where_nothing_is_said(chosen):
    assert chosen() is chosen(name="lora") is chosen({"r": 3}) is chosen({"peft_type": "LORA"}) is METHOD


def test_an_adapter_says_its_method(chosen):
    golden = Path(__file__).resolve().parents[3] / "golden" / "adapter"
    assert chosen(adapter=golden) is METHOD


def test_a_method_that_is_unknown(chosen):
    with pytest.raises(ValueError, match=r"method 'lorra' is unknown; expected one of .*lora"):
        chosen(name="lorra")


def test_a_file_of_a_type_that_is_not_supported(chosen):
    with pytest.raises(UnsupportedModel, match=r"peft.json: peft_type is OFT; only .*LORA.* is supported"):
        chosen({"peft_type": "OFT"})


def test_biases_are_those_of_the_method(chosen):
    with pytest.raises(ValueError, match="bias is 'some'; LoRA knows none, all, lora_only"):
        chosen(bias="some")


def test_settings_that_the_method_does_not_have(chosen, monkeypatch):
    with pytest.raises(ValueError, match="--feedforward-modules: LoRA has no such setting; leave it out"):
        chosen(feedforward_modules=("dense",))
    monkeypatch.setattr(METHOD.__class__, "settings", frozenset())
    with pytest.raises(ValueError, match="--rank, --alpha, --rslora: LoRA has no such setting"):
        chosen(rank=3, alpha=4, rslora=True)


def test_the_command_refuses_them_in_one_line(tmp_path, capsys):
    flags = ("--task", "text-classification", "--out", str(tmp_path / "out"))
    assert main(["build", "model", *flags, "--feedforward-modules", "dense"]) == 2
    assert "--feedforward-modules: LoRA has no such setting" in capsys.readouterr().err
    assert main(["build", "model", *flags, "--method", "lorra"]) == 2
    printed = capsys.readouterr().err
    assert "method 'lorra' is unknown" in printed
    assert printed.count("\n") == 1


def test_a_method_says_what_it_needs_and_no_more():
    assert Method.__abstractmethods__ == {"config_class", "fields", "layer_class", "layer_fault", "facts"}
