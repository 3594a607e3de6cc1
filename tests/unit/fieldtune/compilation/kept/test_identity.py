import dataclasses
import os

import pytest

from fieldtune.compilation.kept.identity import prefix_identity
from fieldtune.hardware import CPU_PROVIDER
from fieldtune.placement.reports.report import ProviderShare
from fieldtune.runtime.providers import ProviderChoice, SessionSettings

pytest.importorskip("onnxruntime")

OPENVINO = "OpenVINOExecutionProvider"


@pytest.fixture
def compiled(report):
    """A function to the identity of a compiled prefix."""
    return _identity_of(report)


@pytest.fixture
def plain(report):
    """A function to the identity of a prefix that a provider runs as it is."""
    shares = (ProviderShare(provider=OPENVINO, nodes=23, macs=1000),)
    return _identity_of(dataclasses.replace(report, actual=OPENVINO, shares=shares, partitions=0, cache_identity=""))


@pytest.fixture
def made(bundle):
    return bundle({"prefix_vek280": b"graph"})


def _identity_of(report):
    def identity(bundle, *, options=(), library="", settings=None, **changes):
        changed = dataclasses.replace(report, **changes)
        choice = ProviderChoice(
            provider=changed.actual,
            requested=changed.requested,
            options=dict(options),
            plugin_library=str(library),
            session_settings=settings or SessionSettings(intra_op_threads=2),
            reason="as requested",
        )
        return prefix_identity(bundle, choice, changed)

    return identity


def test_options_count_where_nothing_is_compiled(plain, made):
    asked = [{}, {"precision": "FP16"}, {"precision": "FP32"}, {"device_type": "GPU"}]
    assert len({plain(made, options=options) for options in asked}) == len(asked)
    assert plain(made, options={"a": "1", "b": "2"}) == plain(made, options={"b": "2", "a": "1"})


def test_so_do_the_files_that_options_name_and_the_plugin(plain, made, tmp_path):
    file, found = tmp_path / "file", set()
    for content in (b"one", b"other"):
        file.write_bytes(content)
        found |= {plain(made, options={"config_file": str(file)}), plain(made, library=file)}
    assert len(found) == 4


def test_the_drivers_version_counts_where_a_provider_has_one(plain, made, tmp_path, monkeypatch):
    monkeypatch.setenv("XILINX_XRT", str(tmp_path))
    found = []
    for version in ("2.15.225", "2.16.0"):
        (tmp_path / "version.json").write_text(f'{{"BUILD_VERSION": "{version}"}}')
        found.append((plain(made), plain(made, actual=CPU_PROVIDER)))
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


def test_what_was_read_back_counts(compiled, made, report):
    accelerator, cpu = report.shares
    moved = (dataclasses.replace(accelerator, nodes=19, macs=890), dataclasses.replace(cpu, nodes=4, macs=110))
    found = {compiled(made), compiled(made, shares=moved), compiled(made, partitions=3)}
    assert len(found) == 3
    # Who asked and why, and what it may take, decide nothing.
    assert compiled(made, profile="mine", reason="as requested", estimated_run_s=0.1) == compiled(made)


def test_where_the_store_of_compiled_forms_lies_does_not_count(compiled, made):
    assert compiled(made, options={"cacheDir": "/here"}) == compiled(made, options={"cacheDir": "/there"})


def test_how_sessions_are_opened_counts(plain, made):
    base = SessionSettings(intra_op_threads=2)
    changes = [{}, {"graph_optimization": "basic"}, {"intra_op_threads": 1}, {"prepacking": False}]
    found = {plain(made, settings=dataclasses.replace(base, **change)) for change in changes}
    assert len(found) == len(changes)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system keeps no process to some cores")
def test_cores_count_where_no_number_of_threads_is_set(plain, made):
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("one core only")
    before = plain(made), plain(made, settings=SessionSettings())
    os.sched_setaffinity(0, {min(usable)})
    try:
        after = plain(made), plain(made, settings=SessionSettings())
    finally:
        os.sched_setaffinity(0, usable)
    assert after[0] == before[0]
    assert after[1] != before[1]
