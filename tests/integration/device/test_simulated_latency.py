"""An emulation that takes no less time than the accelerator is estimated to take."""

import dataclasses
import time

import numpy as np
import pytest

from fieldtune.bundle.opening import open_bundle
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.compilation.prefix import open_prefix
from fieldtune.errors import CompileError
from fieldtune.files import Fields
from fieldtune.hardware import load_profile
from fieldtune.placement.reports.report import read_report

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(target_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path / "cache"))
    return open_bundle(target_folder)


def _slow(**execution):
    """Return the profile of a board so slow that it is the simulation that takes time."""
    board = load_profile("vek280")
    return dataclasses.replace(
        board,
        execution=dataclasses.replace(board.execution, on_missing="emulate", **execution),
        accelerator=dataclasses.replace(board.accelerator, peak_tops=5e-6),
    )


def test_runs_and_compiles_take_no_less_than_the_estimate(bundle):
    profile = _slow(simulate_latency=True, compile_s=1.5)
    compiled = compile_prefix(bundle, profile)
    assert compiled.seconds >= 1.5
    assert compiled.report.latency_simulated
    assert read_report(Fields(compiled.report.to_json(), "report", ValueError)) == compiled.report
    prefix = open_prefix(bundle, profile)
    assert prefix.report.latency_simulated
    samples = prefix.batch + 1
    shape = [samples, *prefix.spec.inputs[0].shape[1:]]
    least = prefix.report.estimated_run_s
    assert least > 0.2
    started = time.perf_counter()
    prefix.run({prefix.spec.inputs[0].name: np.zeros(shape, np.float32)})
    assert time.perf_counter() - started >= 2 * least


def test_a_compile_that_would_take_too_long_is_ended(bundle):
    with pytest.raises(CompileError, match="took longer than 5 s and was ended"):
        compile_prefix(bundle, _slow(simulate_latency=True, compile_s=3600.0, compile_timeout_s=5))


def test_without_being_asked_nothing_waits(bundle):
    profile = _slow()
    assert not compile_prefix(bundle, profile).report.latency_simulated
    assert not open_prefix(bundle, profile).report.latency_simulated
