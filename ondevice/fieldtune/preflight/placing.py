"""What of each graph would run where, and what the accelerator's compiler would refuse."""

import dataclasses
from collections import Counter

from fieldtune.hardware import CPU_PROVIDER, HardwareProfile
from fieldtune.placement import (
    PlacementPlan,
    ProviderShare,
    Violation,
    check_rules,
    demand_faults,
    plan_placement,
    plan_shares,
)
from fieldtune.preflight.workload import Part


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeftToCpu:
    """Operators of the accelerator's graph that the CPU would run, and why."""

    op: str
    reason: str
    nodes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GraphPlacement:
    """Where one graph would run.

    Attributes:
        graph: its name.
        batch: samples of one run.
        shares: of each provider, the accelerator's first; none where the graph is refused before it can be planned.
        partitions: pieces on the accelerator.
        boundary_bytes: that cross between accelerator and CPU in one run.
        left: what the accelerator leaves to the CPU, the most frequent first.
        violations: what the accelerator's compiler would refuse.
        faults: how the plan falls short of what the profile asks for, in words.
    """

    graph: str
    batch: int
    shares: tuple[ProviderShare, ...]
    partitions: int
    boundary_bytes: int
    left: tuple[LeftToCpu, ...]
    violations: tuple[Violation, ...]
    faults: tuple[str, ...]


def place_graph(part: Part, profile: HardwareProfile) -> GraphPlacement:
    """Return where a graph would run.

    Args:
        part: the graph.
        profile: of the device.
    """
    if not part.on_accelerator or profile.accelerator is None:
        # Beside an accelerator it is the CPU that runs the rest.
        provider = profile.execution.provider if profile.accelerator is None else CPU_PROVIDER
        share = ProviderShare(provider=provider, nodes=len(part.table.nodes), macs=part.macs)
        return _placement(part, shares=(share,))
    violations = check_rules(part.table, profile)
    # Without static shapes nothing can be counted, and nothing would be compiled either.
    if any(violation.rule == "dynamic-shape" for violation in violations):
        return _placement(part, violations=violations)
    plan = plan_placement(part.table, profile.accelerator)
    return _placement(
        part,
        shares=plan_shares(plan, profile.execution.provider),
        partitions=len(plan.partitions),
        boundary_bytes=plan.boundary_bytes,
        left=_left(plan),
        violations=violations,
        faults=_faults(part, plan, profile),
    )


def _placement(
    part: Part,
    *,
    shares: tuple[ProviderShare, ...] = (),
    partitions: int = 0,
    boundary_bytes: int = 0,
    left: tuple[LeftToCpu, ...] = (),
    violations: tuple[Violation, ...] = (),
    faults: tuple[str, ...] = (),
) -> GraphPlacement:
    return GraphPlacement(
        graph=part.graph,
        batch=part.batch,
        shares=shares,
        partitions=partitions,
        boundary_bytes=boundary_bytes,
        left=left,
        violations=violations,
        faults=faults,
    )


def _left(plan: PlacementPlan) -> tuple[LeftToCpu, ...]:
    counts = Counter((node.op, node.reason) for node in plan.cpu)
    return tuple(LeftToCpu(op=op, reason=reason, nodes=nodes) for (op, reason), nodes in counts.most_common())


def _faults(part: Part, plan: PlacementPlan, profile: HardwareProfile) -> tuple[str, ...]:
    faults = demand_faults(
        profile.execution,
        provider=profile.execution.provider,
        nodes=plan.accelerator_nodes,
        offload=plan.offload,
        partitions=len(plan.partitions),
        cpu_operators=plan.cpu_operators,
    )
    return tuple(f"{part.graph}: {fault}" for fault in faults)
