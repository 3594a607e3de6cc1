"""A placement report as people read it."""

import pytest

from builders import CPU, VITIS, placement_report, shares
from fieldtune.cli.shared.placements import placement_table


def lines(report):
    table = placement_table(report)
    names, values = (list(column.cells) for column in table.columns)
    return table.title, dict(zip(names, values, strict=True))


def test_a_prefix_on_an_accelerator():
    found = shares((20, 2_500_000_000), (3, 1_250_000))
    title, rows = lines(placement_report(shares=found, partitions=2, cpu_operators={"Softmax": 1, "Transpose": 2}))
    assert title == "Placement of prefix_vek280 on DPUCV2DX8G_ISA1_C20B14, profile vek280"
    assert rows == {
        "requested": VITIS,
        "actual": VITIS,
        "emulated": "no",
        "reason": "as the profile vek280 says",
        "batch": "14",
        f"runs on {VITIS}": "20 nodes, 2.5 G multiply-accumulates a run",
        f"runs on {CPU}": "3 nodes, 1.25 M multiply-accumulates a run",
        "offload": "100.0 % of the multiply-accumulates",
        "partitions": "2",
        "boundary": "4,096 bytes a run between accelerator and CPU",
        "operators on the CPU": "1 Softmax, 2 Transpose",
    }


def test_an_emulation_is_never_told_as_the_accelerator():
    _, rows = lines(
        placement_report(
            emulated=True, actual=CPU, estimated_run_s=0.00123456, latency_simulated=True, cache_identity="0" * 64
        )
    )
    assert (rows["emulated"], rows["actual"]) == ("yes", CPU)
    assert f"would run on {VITIS}" in rows
    assert f"runs on {VITIS}" not in rows
    assert rows["estimated run"] == "1.23 ms or more: an estimate at the accelerator's peak rate, not measured"
    assert rows["simulated latency"] == "each emulated run takes no less than the estimate"
    assert rows["compiled identity"] == "0" * 16


def test_a_graph_on_the_cpu_alone_has_no_parts():
    report = placement_report(target="", actual=CPU, batch=None, shares=shares((0, 0), (5, 999))[1:], cpu_operators={})
    title, rows = lines(report)
    assert title == "Placement of prefix_vek280, profile vek280"
    assert rows["batch"] == "any"
    assert rows[f"runs on {CPU}"] == "5 nodes, 999 multiply-accumulates a run"
    assert rows["operators on the CPU"] == "none"
    assert not {"offload", "partitions", "boundary", "estimated run", "compiled identity"} & set(rows)


@pytest.mark.parametrize(("macs", "said"), [(0, "0"), (1_000, "1 k"), (999_499, "999 k"), (1_000_000, "1 M")])
def test_multiply_accumulates_in_units(macs, said):
    _, rows = lines(placement_report(shares=shares((1, macs), (0, 0))[:1]))
    assert rows[f"runs on {VITIS}"] == f"1 nodes, {said} multiply-accumulates a run"
