"""A PlacementReport from what was planned or read back."""

import collections
from collections.abc import Mapping

from fieldtune.bundle import NodeTable, Sizes
from fieldtune.hardware import CPU_PROVIDER, HardwareProfile
from fieldtune.placement.plan import PlacementPlan, estimate_run_s
from fieldtune.placement.reports.report import PlacementReport, ProviderShare
from fieldtune.runtime import ProviderChoice


def accelerator_report(
    plan: PlacementPlan,
    profile: HardwareProfile,
    choice: ProviderChoice,
    graph: str,
    *,
    identity: str,
    partitions: int | None = None,
) -> PlacementReport:
    """Return the report of a graph on an accelerator, real or emulated.

    Args:
        plan: where its nodes run.
        profile: of the device; it has an accelerator.
        choice: the provider that runs it.
        graph: name of the graph.
        identity: of the key that it is compiled under.
        partitions: how many there are, where the plan does not tell them apart; the plan's if None.
    """
    accelerator = profile.accelerator
    assert accelerator is not None
    return PlacementReport(
        profile=profile.name,
        target=accelerator.target,
        graph=graph,
        requested=choice.requested,
        actual=choice.provider,
        emulated=choice.emulated,
        reason=choice.reason,
        batch=accelerator.batch,
        shares=plan_shares(plan, choice.requested),
        partitions=len(plan.partitions) if partitions is None else partitions,
        boundary_bytes=plan.boundary_bytes,
        cpu_operators=plan.cpu_operators,
        cache_identity=identity,
        estimated_run_s=estimate_run_s(plan.accelerator_macs, accelerator),
        latency_simulated=choice.emulated and profile.execution.simulate_latency,
    )


def provider_report(
    plan: PlacementPlan, choice: ProviderChoice, graph: str, *, batch: int | None, partitions: int
) -> PlacementReport:
    """Return the report of a graph that another provider than the CPU's runs as it is, as far as it takes it.

    Args:
        plan: where its nodes run, as it was read back.
        choice: the provider.
        graph: name of the graph.
        batch: samples in one run; None for any number.
        partitions: how many there are, where the plan does not tell them apart.
    """
    return _without_accelerator(
        choice,
        graph,
        batch=batch,
        shares=plan_shares(plan, choice.provider),
        partitions=partitions,
        boundary_bytes=plan.boundary_bytes,
        cpu_operators=plan.cpu_operators,
    )


def plain_report(table: NodeTable, choice: ProviderChoice, graph: str, sizes: Sizes, batch: int) -> PlacementReport:
    """Return the report of a graph that the CPU runs as it is.

    Args:
        table: the graph.
        choice: of the CPU's provider, whatever was asked for.
        graph: name of the graph.
        sizes: of its symbolic dimensions.
        batch: samples in one run.
    """
    operators = collections.Counter(node.op for node in table.nodes)
    macs = sum(table.macs(node, sizes) for node in table.nodes)
    return _without_accelerator(
        choice,
        graph,
        batch=batch,
        shares=(ProviderShare(provider=choice.provider, nodes=len(table.nodes), macs=macs),),
        cpu_operators=dict(operators.most_common()),
    )


def plan_shares(plan: PlacementPlan, provider: str) -> tuple[ProviderShare, ProviderShare]:
    """Return what a provider runs of a graph by a plan, and what is left to the CPU."""
    return (
        ProviderShare(provider=provider, nodes=plan.accelerator_nodes, macs=plan.accelerator_macs),
        ProviderShare(provider=CPU_PROVIDER, nodes=plan.cpu_nodes, macs=plan.cpu_macs),
    )


def _without_accelerator(
    choice: ProviderChoice,
    graph: str,
    *,
    batch: int | None,
    shares: tuple[ProviderShare, ...],
    cpu_operators: Mapping[str, int],
    partitions: int = 0,
    boundary_bytes: int = 0,
) -> PlacementReport:
    """Return the report of a graph of which nothing is compiled, emulated or estimated."""
    return PlacementReport(
        profile=choice.profile,
        target="",
        graph=graph,
        requested=choice.requested,
        actual=choice.provider,
        emulated=False,
        reason=choice.reason,
        batch=batch,
        shares=shares,
        partitions=partitions,
        boundary_bytes=boundary_bytes,
        cpu_operators=cpu_operators,
        cache_identity="",
        estimated_run_s=None,
    )
