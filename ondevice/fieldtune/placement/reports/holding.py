"""What a profile demands of a placement, before anything runs on it."""

from collections.abc import Mapping
from typing import Protocol

from fieldtune.errors import PlacementRefused, listed
from fieldtune.hardware import CPU_PROVIDER, HardwareProfile
from fieldtune.placement.reports.report import PlacementReport

_CHANGE = "another model, or change the limit in a copy of the profile and name its path"
_MEND = f"build with another --split or {_CHANGE}"
_MEND_PROVIDER = f"take a profile with {CPU_PROVIDER} or {_CHANGE}"


class Demands(Protocol):
    """What a profile demands of a placement: the ``execution`` of it, or a choice of its provider."""

    @property
    def min_offload(self) -> float:
        """The share, 0 to 1, of multiply-accumulates that must not run on the CPU."""

    @property
    def max_partitions(self) -> int | None:
        """The most pieces beside the CPU's; None is any number."""


def demand_faults(
    demands: Demands,
    *,
    provider: str,
    nodes: int,
    offload: float,
    partitions: int,
    cpu_operators: Mapping[str, int],
) -> tuple[str, ...]:
    """Return how a placement falls short of a profile's ``min_offload`` and ``max_partitions``, in words.

    Args:
        demands: the profile's.
        provider: of the accelerator.
        nodes: operators that it runs.
        offload: the share, 0 to 1, of multiply-accumulates that it runs.
        partitions: pieces on it.
        cpu_operators: ONNX operator → how many of them the CPU runs.
    """
    faults = []
    on_cpu = ", ".join(f"{count} {operator}" for operator, count in cpu_operators.items()) or "nothing"
    if not nodes:
        faults.append(f"nothing of it runs on {provider}; the CPU runs {on_cpu}")
    elif offload < demands.min_offload:
        faults.append(
            f"min_offload: {offload:.1%} of its multiply-accumulates run on {provider}, and the profile demands "
            f"{demands.min_offload:.1%}; the CPU runs {on_cpu}"
        )
    if demands.max_partitions is not None and partitions > demands.max_partitions:
        faults.append(
            f"max_partitions: it is cut into {partitions} pieces, and the profile allows {demands.max_partitions}; "
            f"the CPU runs {on_cpu}"
        )
    return tuple(faults)


def hold_to(report: PlacementReport, profile: HardwareProfile) -> None:
    """Hold a placement on an accelerator against what the profile demands.

    Raises:
        PlacementRefused: nothing or too little of the graph would run on the accelerator, or in too many pieces.
    """
    hold(report, profile.execution)


def hold(report: PlacementReport, demands: Demands) -> None:
    """Hold a placement beside the CPU, on an accelerator or with any other provider, against what is demanded of it.

    Raises:
        PlacementRefused: as ``hold_to``.
    """
    faults = demand_faults(
        demands,
        provider=report.requested,
        nodes=sum(share.nodes for share in report.shares if not share.on_cpu),
        offload=report.offload,
        partitions=report.partitions,
        cpu_operators=report.cpu_operators,
    )
    if faults:
        raise PlacementRefused(
            f"{report.graph}: its placement on {report.target or report.requested} is not what the profile "
            f"{report.profile} demands; {_MEND if report.target else _MEND_PROVIDER}{listed(faults)}"
        )
