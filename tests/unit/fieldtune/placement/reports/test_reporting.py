"""Reports from what was planned or read back: who runs what, and what a report of the CPU alone leaves open."""

import pytest

from builders import CPU, VITIS, Graph, altered, full_profile, profile
from fieldtune.hardware import load_profile
from fieldtune.placement.plan import CpuNode, Partition, PlacementPlan
from fieldtune.placement.reports.report import ProviderShare
from fieldtune.placement.reports.reporting import accelerator_report, plain_report, provider_report
from fieldtune.runtime.providers import choose_provider

PLAN = PlacementPlan(
    partitions=(
        Partition(nodes=(1, 2), macs=600, bytes_in=10, bytes_out=20),
        Partition(nodes=(5,), macs=300, bytes_in=1, bytes_out=2),
    ),
    cpu=tuple(
        CpuNode(index=index, op=op, macs=macs, reason="") for index, op, macs in ((0, "Cast", 0), (3, "Gemm", 100))
    ),
)


def test_an_accelerators_report():
    vek280 = load_profile("vek280")
    report = accelerator_report(PLAN, vek280, choose_provider(vek280, [VITIS, CPU]), "prefix_vek280", identity="i")
    assert report.shares == (
        ProviderShare(provider=VITIS, nodes=3, macs=900),
        ProviderShare(provider=CPU, nodes=2, macs=100),
    )
    assert (report.target, report.batch, report.partitions) == ("DPUCV2DX8G_ISA1_C20B14", 14, 2)
    assert (report.boundary_bytes, report.cpu_operators) == (33, {"Cast": 1, "Gemm": 1})
    assert (report.requested, report.actual, report.emulated) == (VITIS, VITIS, False)
    assert report.offload == 0.9
    assert report.estimated_run_s > 0


@pytest.mark.parametrize(
    ("simulate", "emulate", "expected"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_latency_is_simulated_where_the_profile_asks_and_the_cpu_stands_in(simulate, emulate, expected):
    made = altered(full_profile(), execution={"simulate_latency": simulate, "compile_s": 0.0, "on_missing": "emulate"})
    choice = choose_provider(made, [CPU] if emulate else [VITIS, CPU])
    report = accelerator_report(PLAN, made, choice, "prefix_board", identity="i", partitions=7)
    assert report.latency_simulated is expected
    assert report.emulated is emulate
    assert report.partitions == 7
    assert report.shares[0].provider == VITIS


def test_another_providers_report_has_no_target():
    made = altered(profile(), execution={"provider": "CUDAExecutionProvider"})
    choice = choose_provider(made, ["CUDAExecutionProvider", CPU])
    report = provider_report(PLAN, choice, "infer", batch=None, partitions=1)
    assert (report.target, report.cache_identity, report.estimated_run_s) == ("", "", None)
    assert (report.profile, report.actual, report.batch, report.partitions) == (
        "board",
        "CUDAExecutionProvider",
        None,
        1,
    )
    assert report.shares[0] == ProviderShare(provider="CUDAExecutionProvider", nodes=3, macs=900)


def test_the_cpus_report_counts_every_operator():
    made = Graph()
    value = made.add("Relu", [made.input("x", "batch", 4)], ("batch", 4))
    value = made.add("MatMul", [value, made.constant("w", 4, 2)], ("batch", 2), macs=("batch", 2, 4))
    table = made.table(made.add("Relu", [value], ("batch", 2)))
    report = plain_report(table, choose_provider(profile(), [CPU]), "prefix", {"batch": 3}, 3)
    assert report.shares == (ProviderShare(provider=CPU, nodes=3, macs=24),)
    assert report.cpu_operators == {"Relu": 2, "MatMul": 1}
    assert (report.partitions, report.boundary_bytes, report.batch) == (0, 0, 3)
    assert not report.is_divided
