"""What a profile demands of a placement, before anything runs on it."""

from fieldtune.errors import PlacementRefused, listed
from fieldtune.hardware import HardwareProfile
from fieldtune.placement.report import PlacementReport
from fieldtune.providers import CPU_PROVIDER

_MEND = "build with another --split or another model, or demand less in a copy of the profile"


def hold_to(report: PlacementReport, profile: HardwareProfile) -> None:
    """Hold a placement on an accelerator against the profile's ``min_offload`` and ``max_partitions``.

    Raises:
        PlacementRefused: too little of the graph would run on the accelerator, or in too many pieces.
    """
    execution = profile.execution
    faults = []
    on_cpu = ", ".join(f"{count} {operator}" for operator, count in report.cpu_operators.items()) or "nothing"
    if not any(share.nodes for share in report.shares if share.provider != CPU_PROVIDER):
        faults.append(f"nothing of it runs on {report.requested}; the CPU runs {on_cpu}")
    elif report.offload < execution.min_offload:
        faults.append(
            f"min_offload: {report.offload:.1%} of its multiply-accumulates run on {report.requested}, and the profile "
            f"demands {execution.min_offload:.1%}; the CPU runs {on_cpu}"
        )
    if execution.max_partitions is not None and report.partitions > execution.max_partitions:
        faults.append(
            f"max_partitions: it is cut into {report.partitions} pieces, and the profile allows "
            f"{execution.max_partitions}; the CPU runs {on_cpu}"
        )
    if faults:
        raise PlacementRefused(
            f"{report.graph}: its placement on {report.target} is not what the profile {profile.name} demands; "
            f"{_MEND}{listed(faults)}"
        )
