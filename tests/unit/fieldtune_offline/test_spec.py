"""What a command line makes of a build and of a merge."""

from pathlib import Path

import pytest
import tyro

from fieldtune_offline.cli.build import Build
from fieldtune_offline.cli.merge import Merge
from fieldtune_offline.spec import BuildSpec, MergeSpec, MethodSpec

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
BUILD = ("some/model", "--task", "text-classification", "--out", "out")


def built(*flags):
    return tyro.cli(Build, args=[*BUILD, *flags], config=CONFIG)


def test_what_is_left_out_is_as_the_spec_has_it():
    found = built()
    assert found.spec == BuildSpec(model="some/model", task="text-classification", out=Path("out"))
    assert (found.as_json, found.spec.split, found.spec.method) == (False, "none", MethodSpec())


def test_settings_of_the_method_stand_beside_those_of_the_build():
    found = built(
        "--method", "dora", "--rank", "4", "--target-modules", "query", "value", "--bias", "all", "--rslora",
        "--peft-config", "peft.json", "--json",
    )  # fmt: skip
    assert found.spec.method == MethodSpec(
        name="dora", rank=4, target_modules=("query", "value"), bias="all", rslora=True, peft_config=Path("peft.json")
    )
    assert found.as_json


@pytest.mark.parametrize(("said", "split"), [("none", "none"), ("auto", "auto"), ("2", 2)])
def test_a_split_is_a_word_or_a_number_of_blocks(said, split):
    assert built("--split", said).spec.split == split


def test_several_labels_and_targets():
    found = built("--labels", "negative", "positive", "--target", "vek280", "kv260", "--calibration", "data.jsonl").spec
    assert (found.labels, found.target) == (("negative", "positive"), ("vek280", "kv260"))
    assert (found.calibration, found.calibration_examples) == (Path("data.jsonl"), 256)


@pytest.mark.parametrize("flags", [("--split", "half"), ("--quantizer", "other"), ("--batch", "many")])
def test_a_word_that_is_none_of_them_is_wrong_usage(flags, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        built(*flags)
    assert flags[1] in capsys.readouterr().err


def test_a_merge_takes_a_bundle_and_an_adapter():
    found = tyro.cli(Merge, args=["bundle", "adapter", "--out", "merged", "--target", "kv260"], config=CONFIG)
    assert found.spec == MergeSpec(
        bundle=Path("bundle"), adapter=Path("adapter"), out=Path("merged"), target=("kv260",)
    )
