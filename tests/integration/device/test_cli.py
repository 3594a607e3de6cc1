"""The command line, in this process and as processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("tyro")
pytest.importorskip("tokenizers")

from fieldtune.adapters.directory import read_adapter
from fieldtune.cli import main

COMMAND = [sys.executable, "-c", "import sys; from fieldtune.cli import main; sys.exit(main())"]


@pytest.fixture
def data(reviews, write_rows):
    return write_rows(reviews(24), "train.jsonl"), write_rows(reviews(12, seed=1), "eval.jsonl")


@pytest.fixture
def arguments(bundle_folder, data, tmp_path):
    """What ``train`` needs, as arguments, with the output in ``out``."""
    train, held_out = map(str, data)
    needed = [
        str(bundle_folder("tiny-classifier")),
        "--data",
        train,
        "--eval",
        held_out,
        "--out",
        str(tmp_path / "out"),
    ]
    return ["train", *needed, "--batch-size", "4", "--learning-rate", "5e-3"]


def test_train_writes_an_adapter_and_its_reports(arguments, tmp_path, capsys):
    assert main([*arguments, "--epochs", "2"]) == 0
    shown = capsys.readouterr()
    assert "columns: text from 'text', label from 'label' (guessed" in shown.err
    assert "provider: CPUExecutionProvider, as the profile cpu-generic says" in shown.err
    assert "before training: held-out loss" in shown.err
    assert "epoch 2, step 12: held-out loss" in shown.err
    for word in ("before", "after", "accuracy", "majority class", f"adapter and reports: {tmp_path / 'out'}"):
        assert word in shown.out
    assert {path.name for path in tmp_path.iterdir()} == {"out", "train.jsonl", "eval.jsonl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "fieldtune.json",
        "report.html",
        "train_report.json",
    }
    report = json.loads((tmp_path / "out" / "train_report.json").read_text())
    assert report["format_version"] == "2.0"
    assert report["stopped"] == "completed"
    assert len(report["steps"]) == 12
    assert read_adapter(tmp_path / "out").card.training["steps"] == 12
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_json_is_all_there_is_on_stdout(arguments, bundle_folder, data, tmp_path, capsys):
    assert main([*arguments, "--epochs", "1", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["out"] == str(tmp_path / "out")
    assert trained["train_data"] == {"examples": 24, "truncated": 0, "dropped": 0, "notes": []}
    bundle = str(bundle_folder("tiny-classifier"))
    evaluate = ["evaluate", bundle, "--data", str(data[1]), "--adapter", str(tmp_path / "out"), "--json"]
    assert main(evaluate) == 0
    evaluated = json.loads(capsys.readouterr().out)
    last = trained["evaluations"][-1]["evaluation"]
    assert evaluated["evaluation"]["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert evaluated["evaluation"]["accuracy"] == last["accuracy"]
    for path, kind in ((bundle, "bundle"), (str(tmp_path / "out"), "adapter"), ("cpu-generic", "profile")):
        assert main(["inspect", path, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert main(["profiles", "--json"]) == 0
    assert "raspberry-pi-5" in [profile["name"] for profile in json.loads(capsys.readouterr().out)["profiles"]]


def test_inspect_shows_graphs_parity_and_adapters(arguments, bundle_folder, tmp_path, capsys):
    assert main(["inspect", str(bundle_folder("tiny-classifier"))]) == 0
    shown = capsys.readouterr().out
    names = ("BertForSequenceClassification", "negative, positive", "1,090", "gradient", "grad_sum", "Gemm")
    for word in (*names, "(batch, sequence)", "every digest is right"):
        assert word in shown
    assert main([*arguments, "--max-steps", "2"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    for word in ("rank", "alpha", "query", "negative, positive", "10 (10 F32)", "learning_rate"):
        assert word in shown
    assert main(["inspect", str(tmp_path)]) == 1
    assert "neither manifest.json nor adapter_config.json is in it" in capsys.readouterr().err


def test_profiles_are_listed_and_shown_with_sources(capsys):
    assert main(["profiles"]) == 0
    assert "cpu-generic" in capsys.readouterr().out
    assert main(["profiles", "raspberry-pi-5"]) == 0
    shown = capsys.readouterr().out
    assert "2.4 GHz" in shown
    assert "Raspberry Pi Ltd" in shown
    assert main(["profiles", "rasberry"]) == 1
    assert "Did you mean raspberry-pi-5" in capsys.readouterr().err


def test_a_csv_file_with_named_columns_trains(arguments, reviews, tmp_path, capsys):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["said", "felt", "when"])
        writer.writerows([row["text"], row["label"], index] for index, row in enumerate(reviews(8)))
    arguments[arguments.index("--data") + 1] = str(tmp_path / "rows.csv")
    assert main([*arguments, "--text-column", "said", "--label-column", "felt", "--max-steps", "1"]) == 1
    assert "eval.jsonl: no column 'felt', which --label-column names" in capsys.readouterr().err
    index = arguments.index("--eval")
    del arguments[index : index + 2]
    assert main([*arguments, "--text-column", "said", "--label-column", "felt", "--max-steps", "1"]) == 0
    assert "not used: 'when'" in capsys.readouterr().err


def test_long_texts_are_truncated_and_counted_or_refused(arguments, write_rows, capsys):
    rows = [{"text": "good film " * 80, "label": "positive"}, {"text": "bad film", "label": "negative"}]
    arguments[arguments.index("--data") + 1] = str(write_rows(rows, "long.jsonl"))
    assert main([*arguments, "--max-steps", "1"]) == 0
    assert "2 examples, 1 of them truncated" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--strict"]) == 1
    assert "long.jsonl:1: 162 tokens" in capsys.readouterr().err


def test_an_output_folder_that_exists_is_refused_before_anything_is_done(arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    assert main(arguments) == 1
    assert "exists; choose another folder or add --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 1
    shown = capsys.readouterr().err
    assert "holds other things (no adapter_config.json)" in shown
    assert "training" not in shown
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"


def test_an_adapter_folder_is_overwritten_when_asked_for(arguments, tmp_path, capsys):
    assert main([*arguments, "--max-steps", "1"]) == 0
    assert main([*arguments, "--max-steps", "2", "--overwrite"]) == 0
    assert read_adapter(tmp_path / "out").card.training["steps"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out", "train.jsonl", "eval.jsonl"}


def test_a_place_that_cannot_be_written_is_an_error_before_training(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments[arguments.index("--out") + 1] = str(tmp_path / "file" / "out")
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'out'}: cannot be written" in shown
    assert "training" not in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rate", "-1"], "learning_rate is -1.0; expected a number of at least 0"),
        (["--epochs", "0"], "epochs is 0; expected at least 1"),
        (["--evaluate-every", "0"], "evaluate_every is 0"),
        (["--schedule", "steep"], "steep"),
        (["--learning-rates", "1"], "Unrecognized"),
    ],
)
def test_wrong_flags_end_with_code_2(arguments, flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *flags])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_flags_that_the_bundle_cannot_take_end_with_code_2(arguments, bundle_folder, tmp_path, capsys):
    index = arguments.index("--eval")
    assert main([*arguments[:index], *arguments[index + 2 :], "--keep", "best"]) == 2
    assert "--keep best needs --eval" in capsys.readouterr().err
    arguments[1] = str(bundle_folder("static-classifier"))
    assert main([*arguments, "--max-length", "17"]) == 2
    assert "max_length is 17; the bundle's graphs are static and take at most 16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_diverged_run_leaves_the_last_good_adapter_and_code_1(arguments, tmp_path, capsys):
    assert main([*arguments, "--learning-rate", "1e20", "--evaluate-every", "100"]) == 1
    shown = capsys.readouterr()
    assert "fieldtune: error: the loss is nan in step 3" in shown.err
    assert f"it is in {tmp_path / 'out'}" in shown.err
    assert json.loads((tmp_path / "out" / "train_report.json").read_text())["stopped"] == "diverged"
    arguments[arguments.index("--out") + 1] = str(tmp_path / "next")
    assert main([*arguments, "--adapter", str(tmp_path / "out"), "--max-steps", "2"]) == 0


def _start(arguments, **variables):
    """Start a run that would take for ever, and wait for its first steps."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--epochs", "1000000", "--evaluate-every", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **variables,
    )
    guard = threading.Timer(120, process.kill)
    guard.start()
    for line in process.stderr:
        if "step 10:" in line:
            return process, guard
    guard.cancel()
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_the_work_so_far_and_ends_with_code_130(number, arguments, tmp_path):
    process, guard = _start(arguments)
    process.send_signal(number)
    out, err = process.communicate()
    guard.cancel()
    assert process.returncode == 130, err
    assert f"the adapter so far is in {tmp_path / 'out'}" in err
    assert "fieldtune: interrupted after step" in err
    assert "Traceback" not in err
    assert "not evaluated" in out or "after" in out
    steps = read_adapter(tmp_path / "out").card.training["steps"]
    assert steps >= 10
    assert len(json.loads((tmp_path / "out" / "train_report.json").read_text())["steps"]) == steps


def test_work_that_cannot_be_put_in_its_place_is_saved_elsewhere(arguments, tmp_path):
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    process, guard = _start(arguments, env={**os.environ, "TMPDIR": str(refuge)})
    (tmp_path / "out").mkdir()  # somebody else takes the place meanwhile
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    guard.cancel()
    assert process.returncode == 1
    assert f"{tmp_path / 'out'}: exists" in err
    (saved,) = refuge.glob("fieldtune-adapter-*")
    assert f"the adapter is safe in {saved}" in err
    assert read_adapter(saved).card.training["steps"] >= 10


def test_help_and_version(capsys):
    for words in (["--help"], ["train", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
        assert "fieldtune train BUNDLE --data train.jsonl --eval eval.jsonl --out adapter" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fieldtune 0")


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom fieldtune.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'jinja2', 'rich', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
