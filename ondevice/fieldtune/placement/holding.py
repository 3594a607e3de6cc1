"""What a profile demands of a placement, before anything runs on it."""

from collections.abc import Mapping

from fieldtune.errors import PlacementRefused, listed
from fieldtune.hardware import ExecutionSpec, HardwareProfile
from fieldtune.placement.report import PlacementReport
from fieldtune.providers import CPU_PROVIDER

_MEND = "build with another --split or another model, or change the limit in a copy of the profile and name its path"


def demand_faults(
    execution: ExecutionSpec,
    *,
    provider: str,
    nodes: int,
    offload: float,
    partitions: int,
    cpu_operators: Mapping[str, int],
) -> tuple[str, ...]:
    """Return how a placement falls short of a profile's ``min_offload`` and ``max_partitions``, in words.

    Args:
        execution: of the profile.
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
    elif offload < execution.min_offload:
        faults.append(
            f"min_offload: {offload:.1%} of its multiply-accumulates run on {provider}, and the profile demands "
            f"{execution.min_offload:.1%}; the CPU runs {on_cpu}"
        )
    if execution.max_partitions is not None and partitions > execution.max_partitions:
        faults.append(
            f"max_partitions: it is cut into {partitions} pieces, and the profile allows {execution.max_partitions}; "
            f"the CPU runs {on_cpu}"
        )
    return tuple(faults)


def hold_to(report: PlacementReport, profile: HardwareProfile) -> None:
    """Hold a placement on an accelerator against what the profile demands.

    Raises:
        PlacementRefused: nothing or too little of the graph would run on the accelerator, or in too many pieces.
    """
    faults = demand_faults(
        profile.execution,
        provider=report.requested,
        nodes=sum(share.nodes for share in report.shares if share.provider != CPU_PROVIDER),
        offload=report.offload,
        partitions=report.partitions,
        cpu_operators=report.cpu_operators,
    )
    if faults:
        raise PlacementRefused(
            f"{report.graph}: its placement on {report.target} is not what the profile {profile.name} demands; "
            f"{_MEND}{listed(faults)}"
        )
