"""A PlacementReport from what was planned or read back."""

import collections

from fieldtune.hardware import HardwareProfile
from fieldtune.node_tables import NodeTable, Sizes
from fieldtune.placement.plan import PlacementPlan, estimate_run_s
from fieldtune.placement.report import PlacementReport, ProviderShare
from fieldtune.providers import CPU_PROVIDER, ProviderChoice


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
        shares=(
            ProviderShare(provider=choice.requested, nodes=plan.accelerator_nodes, macs=plan.accelerator_macs),
            ProviderShare(provider=CPU_PROVIDER, nodes=plan.cpu_nodes, macs=plan.cpu_macs),
        ),
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
    return PlacementReport(
        profile=choice.profile,
        target="",
        graph=graph,
        requested=choice.requested,
        actual=choice.provider,
        emulated=False,
        reason=choice.reason,
        batch=batch,
        shares=(
            ProviderShare(provider=choice.provider, nodes=plan.accelerator_nodes, macs=plan.accelerator_macs),
            ProviderShare(provider=CPU_PROVIDER, nodes=plan.cpu_nodes, macs=plan.cpu_macs),
        ),
        partitions=partitions,
        boundary_bytes=plan.boundary_bytes,
        cpu_operators=plan.cpu_operators,
        cache_identity="",
        estimated_run_s=None,
    )


def plain_report(
    table: NodeTable, profile: HardwareProfile, choice: ProviderChoice, graph: str, sizes: Sizes, batch: int
) -> PlacementReport:
    """Return the report of a graph that the CPU runs as it is.

    Args:
        table: the graph.
        profile: of the device.
        choice: of the CPU's provider, whatever was asked for.
        graph: name of the graph.
        sizes: of its symbolic dimensions.
        batch: samples in one run.
    """
    operators = collections.Counter(node.op for node in table.nodes)
    macs = sum(table.macs(node, sizes) for node in table.nodes)
    return PlacementReport(
        profile=profile.name,
        target="",
        graph=graph,
        requested=choice.requested,
        actual=choice.provider,
        emulated=False,
        reason=choice.reason,
        batch=batch,
        shares=(ProviderShare(provider=choice.provider, nodes=len(table.nodes), macs=macs),),
        partitions=0,
        boundary_bytes=0,
        cpu_operators=dict(operators.most_common()),
        cache_identity="",
        estimated_run_s=None,
    )
