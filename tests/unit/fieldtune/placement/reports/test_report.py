"""What people and programs are told of where a graph runs."""

from builders import CPU, placement_report, shares
from fieldtune.placement.reports.report import ProviderShare


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
