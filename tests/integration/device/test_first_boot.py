"""examples/first_boot.py on a desk: the emulation meets the stored reference, and nothing else does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from fieldtune.bundle.node_tables import read_node_table
from fieldtune.bundle.opening import file_spec, open_bundle
from fieldtune.compilation.comparison import compare_outputs, output_step
from fieldtune.compilation.stored_reference import HALF_UP, read_reference
from fieldtune.errors import CorruptFile

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "first_boot.py"
PROFILE = "kv260"


@pytest.fixture
def boot(tmp_path):
    """The function that runs the script with a cache of its own: exit code, stdout and stderr."""

    def run(bundle, *arguments, compiled=True):
        # The script is run as a user of the installed product runs it.
        environment = {**os.environ, "FIELDTUNE_CACHE": str(tmp_path / "cache")}
        flags = ["--profile", PROFILE, "--on-missing", "emulate"]
        if compiled:
            code = "import sys; from fieldtune.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", code, "compile", str(bundle), *flags]
            subprocess.run(command, check=True, capture_output=True, env=environment)
        command = [sys.executable, str(SCRIPT), str(bundle), *flags, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def off(bundle_folder, tmp_path):
    """The function that copies a bundle with one element of its reference so many steps off."""

    def change(steps):
        copy = tmp_path / "copy"
        shutil.copytree(bundle_folder("split-vision"), copy)
        bundle = open_bundle(bundle_folder("split-vision"))
        target = bundle.manifest.targets[PROFILE]
        path, graph = copy / target.reference, bundle.manifest.graphs[target.graph]
        held = load_file(path)
        name = bundle.manifest.split.boundary[0].name
        step = output_step(read_node_table(bundle.root / graph.nodes), name)
        for key in (name, name + HALF_UP):
            held[key].flat[3] = held[name].flat[3] + steps * step
        save_file(held, path)
        manifest = json.loads((copy / "manifest.json").read_text())
        found = file_spec(path)
        manifest["files"][str(path.relative_to(copy))] = {"sha256": found.sha256, "size_bytes": found.size_bytes}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return change


@pytest.mark.parametrize("name", ["split-vision", "merged-vision"])
def test_the_emulation_meets_its_reference(boot, bundle_folder, name):
    code, printed, _ = boot(bundle_folder(name), "--json")
    assert code == 0
    facts = json.loads(printed)
    assert facts["matches"] is True
    assert facts["samples"] == 4
    assert facts["placement"]["emulated"] is True
    assert facts["halves"] == "to even"
    (output,) = facts["outputs"]
    assert output["largest_lsb"] == 0
    assert output["quantized"] is True


def test_another_reference_is_a_mismatch(boot, off):
    bundle = off(3)
    code, printed, _ = boot(bundle)
    assert code == 1
    assert "largest difference 3.00 LSB" in printed
    assert "MISMATCH in boundary_0" in printed
    assert "Placement of prefix_kv260" in printed
    code, printed, _ = boot(bundle, "--tolerance-lsb", "3", compiled=False)
    assert code == 0
    assert "largest difference 3.00 LSB" in printed
    code, printed, _ = boot(bundle, "--share", "0.01", compiled=False)
    assert code == 0
    assert printed.splitlines()[-2:] == ["MATCH", "emulated: nothing is said about the accelerator itself"]


def test_what_is_not_compiled_is_not_compared(boot, bundle_folder):
    code, printed, told = boot(bundle_folder("split-vision"), compiled=False)
    assert (code, printed) == (1, "")
    assert "first_boot: error:" in told
    assert "fieldtune compile" in told


def test_a_reference_that_cannot_be_read(bundle_folder, tmp_path):
    shutil.copytree(bundle_folder("split-vision"), tmp_path / "copy")
    bundle = open_bundle(tmp_path / "copy")
    target = bundle.manifest.targets[PROFILE]
    path = bundle.root / target.reference
    held = load_file(path)
    reference = read_reference(bundle, target)
    assert reference.samples == len(held["pixel_values"])
    table = read_node_table(bundle.root / bundle.manifest.graphs[target.graph].nodes)
    (output,) = compare_outputs(reference.half_up, reference.half_even, table, 1.0)
    assert output.largest_lsb <= 3  # the two ways of rounding, through all operators
    save_file({"pixel_values": held["pixel_values"]}, path)
    message = r"has no tensor boundary_0, boundary_0.half_up, but pixel_values; build the bundle again"
    with pytest.raises(CorruptFile, match=message):
        read_reference(bundle, target)
    path.write_bytes(b"no tensors")
    with pytest.raises(CorruptFile, match="not a whole safetensors file"):
        read_reference(bundle, target)
