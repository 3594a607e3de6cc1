"""planned_report: where an accelerator's compiler would run a graph, held to its rules and to the profile's demands."""

from fieldtune.bundle import NodeTable
from fieldtune.hardware import HardwareProfile
from fieldtune.placement import PlacementReport, accelerator_report, check_rules, hold_to, plan_placement, refuse
from fieldtune.runtime import ProviderChoice


def planned_report(
    table: NodeTable, profile: HardwareProfile, choice: ProviderChoice, graph: str, *, identity: str = ""
) -> PlacementReport:
    """Refuse what the accelerator would; return where the rest would run.

    Args:
        table: the graph.
        profile: of the device; it has an accelerator.
        choice: of the emulation.
        graph: name of the graph.
        identity: of the key that it is compiled under; "" where it is not.

    Raises:
        PlacementRefused: the accelerator would refuse it, or too little or in too many pieces would run on it.
    """
    assert profile.accelerator is not None
    refuse(check_rules(table, profile), graph, profile.accelerator.target)
    report = accelerator_report(plan_placement(table, profile.accelerator), profile, choice, graph, identity=identity)
    hold_to(report, profile)
    return report
