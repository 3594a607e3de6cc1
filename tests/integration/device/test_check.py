"""What would happen on a device, from the command line; and the predicted memory beside that of real runs."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tyro")

from fieldtune.bundle.opening import open_tables
from fieldtune.cli import main
from fieldtune.hardware import load_profile, profile_path
from fieldtune.hardware.installed import features
from fieldtune.preflight.checking import check_bundle

MEASURED = """
import re, sys
from pathlib import Path
from fieldtune.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""
SETTINGS = {
    "generic": 'arena_extend = "as-requested"',
    "lean": 'prepacking = false\nmemory_pattern = false\narena_extend = "as-requested"',
}
BATCH, TOKENS = 8, 64


def test_a_bundle_that_runs(bundle_folder, capsys):
    assert main(["check", str(bundle_folder("tiny-classifier")), "--profile", "raspberry-pi-5"]) == 0
    shown = capsys.readouterr()
    assert "would run on raspberry-pi-5" in shown.out
    for text in ("checked for   8 examples of 64 tokens; nothing was run", "What would run where", "Peak memory of",
                 "memory pattern", "Storage", "estimated (CPU: 4 cores"):  # fmt: skip
        assert text in shown.out
    assert shown.err == ""


def test_manifest_and_node_tables_are_all_that_is_read(bundle_folder, tmp_path, capsys):
    source = bundle_folder("tiny-lm")
    (tmp_path / "graphs").mkdir()
    for path in (source / "manifest.json", *(source / "graphs").glob("*.nodes.json")):
        shutil.copy(path, tmp_path / path.relative_to(source))
    assert main(["check", str(tmp_path), "--json", "--batch-size", "2", "--max-length", "32", "--samples", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["batch"], found["sequence"], found["refusals"]) == (True, 2, 32, [])
    assert [use["use"] for use in found["memory"]] == [
        "training", "training with evaluation", "evaluation", "inference",
    ]  # fmt: skip
    # An answer is written for one prompt at a time.
    assert [use["batch"] for use in found["memory"]] == [2, 2, 2, 1]
    for use in found["memory"]:
        assert use["total_bytes"] == sum(size for name, size in use.items() if name.endswith("_bytes")) / 2
        assert use["unknown_tensors"] == 0


def test_a_bundle_without_the_accelerators_prefix(bundle_folder, capsys):
    assert main(["check", str(bundle_folder("tiny-vision")), "--profile", "kv260"]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert "cannot run on kv260" in line
    assert "--target kv260 --calibration DATA" in line
    assert "cannot run on kv260 (AMD Kria KV260" in shown.out
    assert "kv260 is legacy" in shown.out
    assert "Storage" in shown.out


def test_a_board_that_is_too_small(bundle_folder, tmp_path, capsys):
    profile = tmp_path / "tiny-board.toml"
    profile.write_text(
        'format_version = "1.1"\nname = "tiny-board"\ntitle = "A board"\nsource = []\n'
        "[memory]\ntotal_bytes = 67_108_864\n"
    )
    assert main(["check", str(bundle_folder("tiny-classifier")), "--profile", str(profile), "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert not found["runs"]
    expected = r"training with a batch of 8, 64 tokens each, would need \d+ MB of memory, and the profile has 67 MB"
    assert re.match(expected, found["refusals"][0])
    assert shown.err.startswith("fieldtune: error: ")
    assert len(shown.err.splitlines()) == 1


def test_a_split_bundle(bundle_folder, capsys):
    assert main(["check", str(bundle_folder("split-vision")), "--json", "--samples", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [placement["graph"] for placement in found["placements"]] == [
        "prefix", "suffix_gradient", "suffix_eval", "infer",
    ]  # fmt: skip
    assert found["storage"]["activation_bytes"] == 50 * found["storage"]["sample_bytes"] > 0
    assert found["times"][0]["prefix_macs"] > found["times"][0]["macs"] > 0


@pytest.mark.parametrize("profile", ["vek280", "kv260", "ryzen-ai-strix"])
def test_a_prefix_for_an_accelerator(target_folder, capsys, profile):
    assert main(["check", str(target_folder), "--profile", profile, "--json", "--samples", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    prefix, *suffixes = found["placements"]
    accelerator = load_profile(profile).accelerator
    assert (prefix["graph"], prefix["batch"], prefix["violations"]) == (f"prefix_{profile}", accelerator.batch, [])
    assert prefix["shares"][0]["provider"] == "VitisAIExecutionProvider"
    assert prefix["shares"][0]["macs"] > 0 == prefix["shares"][1]["macs"]
    assert prefix["partitions"] >= 1
    assert prefix["boundary_bytes"] > 0
    for suffix in suffixes:
        assert suffix["graph"].startswith("suffix_")
        assert [share["provider"] for share in suffix["shares"]] == ["CPUExecutionProvider"]
    assert found["storage"]["compiled_bytes"] > 0
    assert found["times"][0]["prefix_s"] > 0
    assert all(use["accelerator_bytes"] > 0 for use in found["memory"])


def test_an_accelerator_with_tighter_limits_refuses_by_name(target_folder, tmp_path, capsys):
    """As a DPU whose convolutions may be 1 by 1 only."""
    source = profile_path("kv260").read_text(encoding="utf-8")
    text = source.replace('name = "kv260"', 'name = "narrow"').replace("kernel_max = 16", "kernel_max = 1")
    (tmp_path / "narrow.toml").write_text(text, encoding="utf-8")
    assert main(["check", str(target_folder), "--profile", str(tmp_path / "narrow.toml")]) == 1
    shown = capsys.readouterr()
    assert "cannot run on narrow: kernel: " in shown.err
    assert "prefix_kv260: refused" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["static-classifier", "--batch-size", "100"], "batch_size is 100; the bundle's graphs are static"),
        (["tiny-vision", "--max-length", "16"], "images, which have no length in tokens"),
        (["tiny-vision", "--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["tiny-vision", "--samples", "-1"], "--samples is -1; expected at least 0"),
    ],
)
def test_wrong_usage(bundle_folder, capsys, arguments, message):
    assert main(["check", str(bundle_folder(arguments[0])), *arguments[1:]]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


@pytest.fixture(scope="module")
def words(bundle_folder, tmp_path_factory):
    """A file of examples, random words that are a token each, and no shorter than TOKENS."""
    vocabulary = json.loads((bundle_folder("real-minilm") / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    known = sorted(word for word in vocabulary if re.fullmatch("[a-z]{3,}", word))
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("words") / "words.jsonl"
    rows = [{"text": " ".join(rng.choices(known, k=TOKENS)), "label": number % 2} for number in range(4 * BATCH)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("use", ["training", "evaluation"])
def test_predicted_memory_is_within_20_percent_of_the_measured(bundle_folder, words, tmp_path, settings, use):
    bundle, runtime = bundle_folder("real-minilm"), features()
    old = tuple(map(int, runtime.version.split(".")[:2])) < (1, 20)
    if settings == "generic" and (old or runtime.has_training_api):
        pytest.skip(f"memory patterns of ONNX Runtime {runtime.version} take less than those of later stock ones")
    path = tmp_path / "board.toml"
    path.write_text(
        'format_version = "1.1"\nname = "board"\ntitle = "A board"\nsource = []\n'
        f'[runtime]\n{SETTINGS[settings]}\n[training]\nbackend = "portable"\n'
    )
    command = "train" if use == "training" else "evaluate"
    sizes = ["--batch-size", str(BATCH), "--max-length", str(TOKENS)]
    arguments = [command, str(bundle), "--data", str(words), "--profile", str(path), *sizes]
    if use == "training":
        arguments += ["--out", str(tmp_path / "out"), "--epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stderr.splitlines()[-1]) * 1024
    found = check_bundle(
        open_tables(bundle), load_profile(path), batch_size=BATCH, max_length=TOKENS, samples=4 * BATCH
    )
    (predicted,) = (memory.total_bytes for memory in found.memory if memory.use == use)
    assert 0.8 < predicted / measured < 1.2, (predicted, measured)
