import pytest

from builders import altered, placement_report, shares
from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.reports.holding import hold_to


def _report(macs=(80, 20), nodes=(8, 2), partitions=8):
    run = shares(*zip(nodes, macs, strict=True))
    return placement_report(shares=run, partitions=partitions, cpu_operators={"Softmax": 2})


def _profile(**execution):
    return altered(load_profile("vek280"), execution=execution)  # min_offload 0.8, max_partitions 8


def test_what_the_profile_demands_is_enough():
    hold_to(_report(), _profile())


@pytest.mark.parametrize(
    ("report", "execution", "says"),
    [
        (_report(macs=(79, 21)), {}, r"min_offload: 79\.0% .*demands 80\.0%; the CPU runs 2 Softmax"),
        (_report(partitions=9), {}, r"max_partitions: it is cut into 9 pieces, and the profile allows 8"),
        (_report(macs=(0, 0), nodes=(0, 10)), {"min_offload": 0.0}, "nothing of it runs on VitisAIExecutionProvider"),
    ],
)
def test_less_is_refused(report, execution, says):
    with pytest.raises(PlacementRefused, match=says):
        hold_to(report, _profile(**execution))


def test_all_that_is_missing_is_told_at_once():
    with pytest.raises(PlacementRefused) as caught:
        hold_to(_report(macs=(1, 99), partitions=20), _profile())
    assert str(caught.value).count("\n  - ") == 2
    assert str(caught.value).startswith(
        "prefix_vek280: its placement on DPUCV2DX8G_ISA1_C20B14 is not what the profile"
    )


def test_any_number_of_partitions():
    hold_to(_report(partitions=1000), _profile(max_partitions=None))
