"""Compiling a prefix, opening it and running it, on an emulated accelerator: the same steps as on a real one."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")

from fieldtune.bundle.manifest import MANIFEST_NAME
from fieldtune.bundle.opening import file_spec, open_bundle
from fieldtune.cli import main
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.compilation.kept.key import external_files
from fieldtune.compilation.kept.store import CompiledStore
from fieldtune.compilation.prefix import open_prefix
from fieldtune.data.limits import CPU_BATCH
from fieldtune.errors import CompileError, InvalidBundle, PlacementRefused, ProviderUnavailable
from fieldtune.hardware import load_profile

pytest.importorskip("onnxruntime")

VITIS, CPU = "VitisAIExecutionProvider", "CPUExecutionProvider"
COMMAND = [sys.executable, "-c", "import sys; from fieldtune.cli import main; sys.exit(main())"]


@pytest.fixture
def copy(target_folder, tmp_path):
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(target_folder, tmp_path / "bundle"))


@pytest.fixture
def bundle(target_folder):
    return open_bundle(target_folder)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    return CompiledStore()


@pytest.fixture(params=["vek280", "kv260"])
def profile(request):
    return load_profile(request.param)


def _emulated(name="vek280", **execution):
    profile = load_profile(name)
    return dataclasses.replace(
        profile, execution=dataclasses.replace(profile.execution, on_missing="emulate", **execution)
    )


def _images(bundle, count, seed=0):
    shape = bundle.manifest.graphs["prefix"].inputs[0].shape[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def _edit(folder, change):
    path = folder / MANIFEST_NAME
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_compiled_once_and_opened_from_there(bundle, profile, store):
    told = []
    compiled = compile_prefix(bundle, profile, on_missing="emulate", progress=told.append)
    assert compiled.fresh
    assert compiled.report.emulated
    assert len(told) == 2
    again = compile_prefix(bundle, profile, on_missing="emulate", progress=told.append)
    assert (again.fresh, again.key, again.report) == (False, compiled.key, compiled.report)
    assert len(told) == 2
    assert compile_prefix(bundle, profile, on_missing="emulate", overwrite=True).fresh
    prefix = open_prefix(bundle, profile, on_missing="emulate")
    assert (prefix.batch, prefix.compiles) == (profile.accelerator.batch, 0)
    assert prefix.report == compiled.report
    assert len(store.list()) == 1


def test_the_report_says_what_is_emulated_and_what_is_estimated(bundle, profile):
    report = compile_prefix(bundle, profile, on_missing="emulate").report
    assert (report.requested, report.actual, report.emulated) == (VITIS, CPU, True)
    assert (report.target, report.batch) == (profile.accelerator.target, profile.accelerator.batch)
    assert report.offload >= profile.execution.min_offload
    assert 1 <= report.partitions <= profile.execution.max_partitions
    on_accelerator = next(share for share in report.shares if share.provider == VITIS)
    assert report.estimated_run_s == pytest.approx(2 * on_accelerator.macs / (profile.accelerator.peak_tops * 1e12))


def test_nothing_is_compiled_unasked(bundle, store):
    with pytest.raises(CompileError) as caught:
        open_prefix(bundle, load_profile("vek280"), on_missing="emulate")
    assert str(caught.value).endswith(
        f"is not compiled for DPUCV2DX8G_ISA1_C20B14; run: fieldtune compile {bundle.root} --profile vek280 "
        "--on-missing emulate"
    )
    with pytest.raises(CompileError, match=r"fieldtune compile .* --profile vek280$"):
        open_prefix(bundle, _emulated())
    assert store.list() == []


@pytest.mark.parametrize("rows", [0, 1, 13, 14, 15, 30])
def test_any_number_of_samples_in_runs_of_the_static_batch(bundle, rows):
    compile_prefix(bundle, _emulated())
    prefix, images = open_prefix(bundle, _emulated()), _images(bundle, rows)
    assert prefix.batch == 14
    found = prefix.run({"pixel_values": images, "labels": np.zeros(3)})
    (spec,) = bundle.manifest.split.boundary
    assert found[spec.name].shape == (rows, *spec.shape[1:])
    assert found[spec.name].dtype == np.float32
    alone = [prefix.run({"pixel_values": images[index : index + 1]})[spec.name] for index in range(rows)]
    np.testing.assert_array_equal(found[spec.name], np.concatenate([found[spec.name][:0], *alone]))


def test_what_is_fed_wrongly_is_the_programmers_mistake(bundle):
    prefix = open_prefix(bundle, load_profile("cpu-generic"))
    with pytest.raises(ValueError, match="the prefix is not fed with pixel_values; there are labels"):
        prefix.run({"labels": np.zeros(3)})


def test_emulated_results_lie_on_the_grid_of_the_boundarys_scale(bundle):
    """Each result is an integer of eight bits times a power of two: what the hardware can hand over."""
    compile_prefix(bundle, _emulated())
    (boundary,) = open_prefix(bundle, _emulated()).run({"pixel_values": _images(bundle, 3)}).values()
    table = json.loads((bundle.root / bundle.manifest.graphs["prefix_vek280"].nodes).read_text())
    last = next(node for node in table["nodes"] if bundle.manifest.split.boundary[0].name in node["outputs"])
    (scale,), (zero,) = last["quantization"]["scale"], last["quantization"]["zero_point"]
    integers = boundary / scale
    np.testing.assert_array_equal(integers, np.round(integers))
    assert integers.min() >= -128 - zero
    assert integers.max() <= 127 - zero
    assert len(np.unique(integers)) > 10


def test_the_cpu_in_its_place_runs_the_same_graph_without_a_compile(bundle, store):
    prefix = open_prefix(bundle, load_profile("vek280"), on_missing="cpu")
    report = prefix.report
    assert (report.requested, report.actual, report.emulated) == (VITIS, CPU, False)
    assert (report.graph, report.batch, report.offload, report.partitions) == ("prefix_vek280", 14, 0.0, 0)
    assert (report.cache_identity, report.estimated_run_s) == ("", None)
    assert 'on_missing is "cpu"' in report.reason
    compile_prefix(bundle, _emulated())
    emulated, images = open_prefix(bundle, _emulated()), _images(bundle, 4)
    assert prefix.identity != emulated.identity
    (fused,), (exact,) = prefix.run({"pixel_values": images}).values(), emulated.run({"pixel_values": images}).values()
    # Rounding differs by at most a step or two where ONNX Runtime computes in integers.
    assert np.abs(fused - exact).max() <= 2 * _step(bundle)
    assert len(store.list()) == 1


def _step(bundle):
    table = json.loads((bundle.root / bundle.manifest.graphs["prefix_vek280"].nodes).read_text())
    last = next(node for node in table["nodes"] if bundle.manifest.split.boundary[0].name in node["outputs"])
    return last["quantization"]["scale"][0]


def test_without_an_accelerator_the_prefix_is_in_float32(bundle):
    prefix, images = open_prefix(bundle, load_profile("cpu-generic")), _images(bundle, 6)
    report = prefix.report
    assert (prefix.batch, report.graph, report.target, report.emulated) == (CPU_BATCH, "prefix", "", False)
    assert sum(share.macs for share in report.shares) > 0
    (whole,), (alone,) = (
        prefix.run({"pixel_values": images}).values(),
        prefix.run({"pixel_values": images[4:5]}).values(),
    )
    np.testing.assert_array_equal(whole[4:5], alone)
    with pytest.raises(CompileError, match="the profile cpu-generic has no accelerator to compile for"):
        compile_prefix(bundle, load_profile("cpu-generic"))


def test_there_is_nothing_to_compile_for_the_cpu(bundle):
    with pytest.raises(
        CompileError, match=r'nothing to compile, the CPU runs the prefix as it is: .*on_missing is "cpu"'
    ):
        compile_prefix(bundle, load_profile("vek280"), on_missing="cpu")


def test_a_bundle_that_is_not_split(opened):
    with pytest.raises(InvalidBundle, match="is not split; build it with: fieldtune-offline build MODEL --split auto"):
        open_prefix(opened("tiny-vision"), load_profile("cpu-generic"))


def test_a_copy_of_a_profile_runs_what_the_original_does(bundle):
    mine = dataclasses.replace(_emulated(), name="my-board")
    compiled = compile_prefix(bundle, _emulated())
    assert open_prefix(bundle, mine).report == dataclasses.replace(
        compiled.report, profile="my-board", reason=compiled.report.reason.replace("profile vek280", "profile my-board")
    )


@pytest.mark.parametrize("change", [{"batch": 7}, {"target": "DPUCV2DX8G_ISA1_C20B1"}, {"activation_type": "uint8"}])
def test_a_profile_of_another_accelerator_needs_another_prefix(bundle, change):
    profile = _emulated()
    other = dataclasses.replace(profile, accelerator=dataclasses.replace(profile.accelerator, **change))
    ((name, value),) = change.items()
    expected = rf"vek280 has {name} \S+ instead of {value}.*--target vek280 --calibration"
    with pytest.raises(InvalidBundle, match=expected):
        open_prefix(bundle, other)


@pytest.mark.parametrize(
    ("execution", "says"),
    [({"min_offload": 1.01}, "min_offload: "), ({"max_partitions": 0}, "max_partitions: ")],
)
def test_a_placement_that_is_not_what_the_profile_demands(bundle, store, execution, says):
    with pytest.raises(PlacementRefused, match=says):
        compile_prefix(bundle, _emulated(**execution))
    assert store.list() == []
    compile_prefix(bundle, _emulated())
    with pytest.raises(PlacementRefused, match=says):
        open_prefix(bundle, _emulated(**execution))


def test_what_is_kept_is_held_to_the_profile_that_uses_it(bundle, store):
    """Memory and demands are not of the key: a kept form serves a profile that differs in them, where it may."""
    profile = _emulated("kv260")
    first = compile_prefix(bundle, profile)
    small = dataclasses.replace(profile, memory=dataclasses.replace(profile.memory, total_bytes=1000))
    small = dataclasses.replace(small, memory=dataclasses.replace(small.memory, available_for_app_bytes=None))
    strict = _emulated("kv260", max_partitions=0)
    for use in (compile_prefix, open_prefix):
        with pytest.raises(PlacementRefused, match=r"memory: .*allowed 1,000 bytes"):
            use(bundle, small)
        with pytest.raises(PlacementRefused, match="max_partitions: "):
            use(bundle, strict)
    assert len(store.list()) == 1
    roomy = dataclasses.replace(small, name="my-board", memory=dataclasses.replace(small.memory, total_bytes=10**9))
    again = compile_prefix(bundle, roomy)
    assert (again.fresh, again.key, again.report.profile) == (False, first.key, "my-board")
    assert "as the profile my-board says" in again.report.reason
    assert again.report == open_prefix(bundle, roomy).report


def test_a_rule_of_the_accelerator_is_held_before_anything_is_kept(bundle, store):
    profile = _emulated()
    strict = dataclasses.replace(
        profile.accelerator, limits=dataclasses.replace(profile.accelerator.limits, kernel_max=1)
    )
    with pytest.raises(PlacementRefused, match="kernel: "):
        compile_prefix(bundle, dataclasses.replace(profile, accelerator=strict))
    assert store.list() == []


def test_weights_that_changed_after_compilation_are_refused(copy):
    compile_prefix(open_bundle(copy), _emulated())
    graph = copy / "graphs/prefix_vek280.onnx"
    holding = [graph, *(graph.parent / name for name in external_files(graph))]
    # One bit of a weight: in the largest file, most of which is weights.
    path = max(holding, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)
    spec = dataclasses.asdict(file_spec(path))
    _edit(copy, lambda manifest: manifest["files"].update({path.relative_to(copy).as_posix(): spec}))
    with pytest.raises(CompileError) as caught:
        open_prefix(open_bundle(copy), _emulated())
    assert "does not belong to what is to run now" in str(caught.value)
    (line,) = str(caught.value).split("\n  - ")[1:]
    assert line.startswith("model (the graph and its weights): stored ")


def test_another_accelerator_in_the_profile_is_refused_by_name(bundle):
    compile_prefix(bundle, _emulated())
    profile = _emulated()
    other = dataclasses.replace(profile, accelerator=dataclasses.replace(profile.accelerator, peak_tops=1.0))
    with pytest.raises(CompileError, match=r"- accelerator \(what the profile says of it\): stored "):
        open_prefix(bundle, other)


def test_a_damaged_entry_is_refused_and_can_be_replaced(bundle, store):
    compiled = compile_prefix(bundle, _emulated())
    (compiled.folder / "entry.json").write_text("{")
    for use in (open_prefix, compile_prefix):
        with pytest.raises(CompileError, match=r"not JSON .*; compile again with --overwrite"):
            use(bundle, _emulated())
    assert compile_prefix(bundle, _emulated(), overwrite=True).fresh
    assert open_prefix(bundle, _emulated()).compiles == 0


def test_what_opening_depends_on_is_in_the_identity(bundle):
    compile_prefix(bundle, _emulated())
    compile_prefix(bundle, _emulated("kv260"))
    threads = _emulated()
    threads = dataclasses.replace(threads, runtime=dataclasses.replace(threads.runtime, threads=1))
    opened = [
        open_prefix(bundle, _emulated()),
        open_prefix(bundle, threads),
        open_prefix(bundle, _emulated("kv260")),
        open_prefix(bundle, load_profile("vek280"), on_missing="cpu"),
        open_prefix(bundle, load_profile("cpu-generic")),
    ]
    assert len({prefix.identity for prefix in opened}) == len(opened)
    assert open_prefix(bundle, _emulated()).identity == opened[0].identity


def test_a_provider_that_is_missing(bundle, store):
    for use in (open_prefix, compile_prefix):
        with pytest.raises(ProviderUnavailable, match=r"install AMD's Vitis AI 3\.5"):
            use(bundle, load_profile("vek280"))
    assert store.list() == []


def test_the_command_prints_the_placement(target_folder, capsys):
    assert main(["compile", str(target_folder), "--profile", "vek280", "--on-missing", "emulate"]) == 0
    shown = capsys.readouterr()
    rows = dict(line.strip().split("  ", 1) for line in shown.out.splitlines()[1:] if line.strip())
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["requested"] == VITIS
    assert rows["actual"] == CPU
    assert rows["emulated"] == "yes"
    assert rows["estimated run"].endswith("or more: an estimate at the accelerator's peak rate, not measured")
    assert "checked and kept: " in shown.err
    # No time that the emulation took is shown.
    assert "compiled in" not in shown.out + shown.err
    assert main(["compile", str(target_folder), "--profile", "vek280", "--on-missing", "emulate"]) == 0
    assert "kept since it was compiled" in capsys.readouterr().err


def test_the_command_as_json(target_folder, capsys):
    assert main(["compile", str(target_folder), "--profile", "kv260", "--on-missing", "emulate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["placement"]["emulated"] is True
    assert found["placement"]["offload"] == 1.0
    assert found["compile_seconds"] is None
    assert found["fresh"] is True
    assert Path(found["entry"]).name == found["placement"]["cache_identity"][:32]


def test_without_the_provider_the_command_compiles_nothing(target_folder, store, capsys):
    assert main(["compile", str(target_folder), "--profile", "vek280"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fieldtune: error: VitisAIExecutionProvider is what the profile vek280 asks for, but")
    assert "nothing was run" in line
    assert store.list() == []


def test_the_cache_is_listed_and_cleared(target_folder, store, capsys):
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith("nothing is kept in ")
    main(["compile", str(target_folder), "--profile", "kv260", "--on-missing", "emulate", "--json"])
    identity = json.loads(capsys.readouterr().out)["placement"]["cache_identity"]
    assert main(["cache", "list"]) == 0
    shown = capsys.readouterr().out
    assert identity[:16] in shown
    assert "DPUCZDX8G_ISA1_B4096" in shown
    assert main(["cache", "list", "--json", "--compiled"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["compiled"]
    assert record["placement"]["cache_identity"] == identity
    assert main(["cache", "clear", "--activations"]) == 0
    assert len(store.list()) == 1
    assert main(["cache", "clear", "--compiled", "--json"]) == 0
    removed, text = capsys.readouterr().out.split("\n", 1)
    assert removed == "removed 0 compiled prefix(es) and the activations of 0: 0.0 MB"
    assert json.loads(text)["removed"] == {"compiled": 1, "activations": 0}
    assert store.list() == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_ctrl_c_ends_the_compile_and_leaves_nothing(target_folder, store, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if any('compilation.worker' in argument for argument in sys.orig_argv):\n"
        "    sys.stdin.buffer.readline()\n"  # what is to be compiled: now the parent waits
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*COMMAND, "compile", str(target_folder), "--profile", "vek280", "--on-missing", "emulate"],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "fieldtune: interrupted"
    assert store.list() == []
    worker = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not worker.exists() or worker.read_text().rpartition(")")[2].split()[0] == "Z"
