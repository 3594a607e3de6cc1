"""Settings that do not fit each other are wrong flags: exit code 2 and one line, before anything is loaded."""

from pathlib import Path

import pytest

from fieldtune_offline.cli import main
from fieldtune_offline.spec import BuildSpec, PrecisionSpec
from fieldtune_offline.spec_checks import checked_spec
from fieldtune_offline.tasks.table import task_class

IMAGES, TEXTS = ("--task", "image-classification"), ("--task", "text-classification")


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text("{}")
    return str(path)


def refused(capsys, tmp_path, *arguments):
    """Run the command; return what it says, after it has said it in one line and written nothing."""
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return printed.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((*IMAGES, "--target", "vek280"), "the target vek280 needs --calibration"),
        ((*IMAGES, "--quantizer", "quark"), "--quantizer: of targets only"),
        ((*IMAGES, "--calibration-examples", "40"), "--calibration-examples: of targets only"),
        ((*IMAGES, "--calibration-examples", "0"), "calibration_examples is 0; expected at least 1"),
        ((*IMAGES, "--batch", "0"), "batch is 0; expected at least 1"),
        ((*IMAGES, "--rank", "0"), "rank is 0; expected at least 1"),
        ((*IMAGES, "--split", "0"), "split is 0; expected at least 1 block"),
        ((*IMAGES, "--split", "1", "--batch", "4"), "leave --batch out"),
        ((*IMAGES, "--split", "2", "--adapter", "kitchen"), "kitchen has its own modules; take --split auto"),
        ((*TEXTS, "--split", "1"), "a split of texts needs --sequence"),
    ],
)
def test_flags_of_a_build(capsys, tmp_path, flags, words):
    assert words in refused(capsys, tmp_path, "build", "model", *flags)


PACKED = pytest.mark.parametrize("base", ["int8", "int4", "nf4"])


@PACKED
def test_a_packed_base_excludes_what_is_made_of_float32_graphs(capsys, tmp_path, base):
    command = ["build", "model", *IMAGES, "--ort-training", "--out", str(tmp_path / "out")]
    assert main([*command, "--base", base]) == 1
    words = "the official training artifacts are float32; leave --base or --ort-training out"
    assert capsys.readouterr().err == f"fieldtune-offline: error: --base {base}: {words}\n"
    # In float32, what is missing is the model.
    assert main([*command, "--base", "float32"]) == 1
    assert "--base" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@PACKED
@pytest.mark.parametrize("others", [{}, {"split": "auto", "sequence": 8}, {"batch": 4}], ids=str)
def test_a_packed_base_fits_all_else(base, others):
    base = PrecisionSpec(name=base)
    spec = BuildSpec(model="m", task="text-classification", out=Path("out"), base=base, **others)
    assert checked_spec(spec, task_class(spec.task)) == spec


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--base", "int3"), "base 'int3' is unknown; expected one of float32, int8, int4, nf4"),
        (("--base", "int8", "--block", "64"), "--block: the base int8 has no such setting"),
        (("--base", "int4", "--block", "48"), "block is 48; expected 32, 64, 128"),
        (("--base", "int4", "--no-double-quant"), "--no-double-quant: the base int4 has no such setting"),
        (("--symmetric",), "--symmetric: the base float32 has no such setting"),
    ],
)
def test_flags_of_a_packed_base(capsys, tmp_path, flags, words):
    assert words in refused(capsys, tmp_path, "build", "model", *TEXTS, *flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--target", "kv260"), "the target kv260 needs --calibration"),
        (("--quantizer", "quark"), "--quantizer: of targets only"),
        (("--target", "kv260", "--calibration-examples", "-5"), "calibration_examples is -5; expected at least 1"),
    ],
)
def test_flags_of_a_merge(capsys, tmp_path, flags, words):
    assert words in refused(capsys, tmp_path, "merge", "bundle", "adapter", *flags)


@pytest.mark.parametrize("command", [("build", "model", *IMAGES), ("merge", "bundle", "adapter")])
def test_calibration_examples_without_a_target(capsys, tmp_path, examples, command):
    assert "--calibration: of targets only" in refused(capsys, tmp_path, *command, "--calibration", examples)


def test_a_file_that_is_not_there_is_no_wrong_flag(capsys, tmp_path):
    command = ["build", "model", *IMAGES, "--target", "kv260", "--calibration", "lost", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "lost: no such file or folder of calibration examples" in capsys.readouterr().err
