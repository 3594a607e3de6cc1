"""What people and programs are told of where a graph runs."""

import json

import pytest

from builders import CPU, placement_report, shares
from fieldtune.errors import CompileError
from fieldtune.files.fields import Fields
from fieldtune.placement.reports.report import ProviderShare, read_report
from mutations import faults_unnamed


def test_an_accelerators_line_says_how_much_it_runs_and_whether_it_is_there():
    line = "prefix_vek280 on DPUCV2DX8G_ISA1_C20B14{}: 99.0% of its multiply-accumulates in {}, 14 samples a run"
    emulated = placement_report(emulated=True, actual=CPU)
    assert str(emulated) == line.format(", emulated by CPUExecutionProvider", "1 partition")
    real = placement_report(partitions=3)
    assert str(real) == line.format("", "3 partitions")


def test_without_an_accelerator_the_provider_is_named():
    alone = (ProviderShare(provider=CPU, nodes=100, macs=1000),)
    plain = placement_report(target="", graph="prefix", actual=CPU, batch=4, shares=alone)
    assert str(plain) == "prefix on CPUExecutionProvider, 4 samples a run"


def test_another_provider_is_named_with_what_it_runs():
    whole = placement_report(
        target="",
        graph="infer",
        batch=None,
        shares=shares((90, 750), (10, 250), "CUDAExecutionProvider"),
        actual="CUDAExecutionProvider",
        partitions=2,
    )
    assert str(whole) == (
        "infer on CUDAExecutionProvider: 75.0% of its multiply-accumulates in 2 partitions, any number of samples a run"
    )


def test_a_share_counts_multiply_accumulates_that_the_cpu_does_not_run():
    assert placement_report().offload == 0.99
    assert placement_report(shares=shares((3, 0), (2, 0))).offload == 0.0
    assert placement_report(shares=()).offload == 0.0
    assert placement_report().is_divided
    assert not placement_report(shares=(ProviderShare(provider=CPU, nodes=1, macs=1),)).is_divided


FULL = placement_report(cache_identity="i", estimated_run_s=0.25, latency_simulated=True)
TREE = {key: value for key, value in json.loads(json.dumps(FULL.to_json())).items() if key != "offload"}


def read(data):
    return read_report(Fields(data, "report.json", CompileError))


@pytest.mark.parametrize("made", [FULL, placement_report(batch=None)])
def test_what_is_written_is_read(made):
    data = json.loads(json.dumps(made.to_json()))
    assert data["offload"] == 0.99
    assert read(data) == made


def test_every_key_that_is_missing_or_of_another_kind_is_named_with_its_place():
    found = faults_unnamed(
        TREE,
        read,
        CompileError,
        "report.json",
        names=[("cpu_operators",)],
        optional={"batch", "estimated_run_s"},
    )
    # What was written before an accelerator's latency was simulated says nothing of it.
    assert [(path, change) for path, change, _ in found] == [(("latency_simulated",), "dropped")]
