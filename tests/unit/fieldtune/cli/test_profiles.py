import json
import subprocess
import sys
from pathlib import Path

import pytest

import fieldtune
from fieldtune.cli import main
from fieldtune.cli.profiles import proposal_tables
from fieldtune.cli.shared import print_tables
from fieldtune.hardware import load_profiles
from fieldtune.hardware.detection import propose
from fieldtune.hardware.machine import MachineFacts


def test_the_list_shows_provider_stack_target_and_support(capsys):
    assert main(["profiles"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["name"] == ["name", "device", "provider", "stack", "target", "support"]
    assert rows["kv260"][-4:] == ["VitisAIExecutionProvider", "vitis-ai-3.0", "DPUCZDX8G_ISA1_B4096", "legacy"]
    assert rows["kr260"][-2:] == ["CPUExecutionProvider", "current"]


def test_a_profile_is_shown_with_limits_and_options(capsys):
    assert main(["profiles", "vek280"]) == 0
    said, sources = capsys.readouterr().out.split("\nSources\n")
    assert "target_factory" in sources
    shown = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    assert shown["accelerator.limits.bank_depth"] == ["32768"]
    assert shown["execution.options"] == ["config_file", "=", "/etc/vaip_config.json"]
    assert shown["detect.device_tree"] == ["Versal", "vek280"]


def test_a_profile_tells_where_it_would_run_here(capsys):
    pytest.importorskip("onnxruntime")
    assert main(["profiles", "vek280"]) == 0
    said = " ".join(capsys.readouterr().out.split("With the ONNX Runtime of this machine\n")[1].split())
    assert said.startswith("error VitisAIExecutionProvider is what the profile vek280 asks for")
    assert main(["profiles", "kr260", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["here"] == {
        "provider": "CPUExecutionProvider",
        "emulated": False,
        "reason": "as the profile kr260 says",
    }


def test_a_profile_as_json_has_its_limits(capsys):
    assert main(["profiles", "kv260", "--json"]) == 0
    accelerator = json.loads(capsys.readouterr().out)["accelerator"]
    assert accelerator["limits"]["input_channel_parallel"] == 16
    assert accelerator["limits"]["activations"] == ["relu", "relu6", "leaky_relu"]


def test_detect_proposes_a_profile_for_this_machine(capsys):
    assert main(["profiles", "detect"]) == 0
    assert "Proposed profile: " in capsys.readouterr().out
    assert main(["profiles", "detect", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proposal"]["name"] in [profile.name for profile in load_profiles()]
    assert found["proposal"]["reasons"]
    assert found["machine"]["runtime_version"].count(".") >= 1
    assert found["next"][0] == f"use it: --profile {found['proposal']['name']}"


def test_an_unknown_board_is_told_what_to_copy_and_what_to_write(capsys):
    facts = MachineFacts(device_tree="A board [rev 2]", architecture="aarch64", providers=("CPUExecutionProvider",))
    print_tables(*proposal_tables(facts, propose(facts, load_profiles())))
    shown = capsys.readouterr().out
    assert "no profile is known by the device tree's model, 'A board [rev 2]'" in shown
    assert 'cpu-generic.toml, name and correct the copy, put device_tree = ["A board [rev 2]"] under [detect]' in shown


@pytest.mark.parametrize("arguments", [["--help"], ["profiles", "--help"]])
def test_help_imports_neither_numpy_nor_profiles(arguments):
    program = (
        "import sys\n"
        "from fieldtune.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = ('numpy', 'onnxruntime', 'fieldtune.hardware.reading')\n"
        "sys.stderr.write(' '.join(name for name in heavy if name in sys.modules))"
    )
    root = str(Path(fieldtune.__file__).parents[1])
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert "profiles" in done.stdout
    assert done.stderr == ""
