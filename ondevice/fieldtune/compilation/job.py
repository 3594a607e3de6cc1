"""Job: a bundle's prefix on a profile's accelerator: what is compiled for it and opened on it, with what, its key."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fieldtune.bundle import Bundle, GraphSpec, NodeTable, TargetSpec, read_node_table
from fieldtune.compilation.kept import CompileKey, compile_key
from fieldtune.errors import CompileError
from fieldtune.hardware import CACHE_VARIABLES, STACKS, HardwareProfile
from fieldtune.placement import (
    PlacementReport,
    RanPiece,
    accelerator_report,
    check_rules,
    describe,
    find_target,
    hold_to,
    match_pieces,
    plan_placement,
    refuse,
)
from fieldtune.runtime import ProviderChoice, check_runtime

EMULATION_CONFIG: Mapping[str, str] = {"session.disable_quant_qdq": "1"}
"""Each operator's result is rounded to eight bits, as on the accelerator; nothing is fused across that."""
_CACHE_NAME = "cache"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is compiled, for what, with what, and the key of it.

    Attributes:
        bundle: the bundle.
        profile: of the device; it has an accelerator.
        choice: the provider, or the CPU in its place.
        target: the prefix that was made for the accelerator.
        key: of all that its compiled form depends on.
    """

    bundle: Bundle
    profile: HardwareProfile
    choice: ProviderChoice
    target: TargetSpec
    key: CompileKey

    @property
    def spec(self) -> GraphSpec:
        """What goes into the graph and comes out."""
        return self.bundle.manifest.graphs[self.target.graph]

    @property
    def path(self) -> Path:
        """The graph's file."""
        return self.bundle.graph_path(self.target.graph)

    @functools.cached_property
    def table(self) -> NodeTable:
        """The node table of the graph."""
        return read_node_table(self.bundle.root / self.spec.nodes)

    @property
    def keeps_own_cache(self) -> bool:
        """Whether the provider keeps compiled models in files of its own, and not in an EPContext model."""
        return _keeps_own_cache(self.profile, self.choice)

    def choice_for(self, folder: Path) -> ProviderChoice:
        """Return the choice with which a session of an entry's folder is opened."""
        return accelerator_choice(self.profile, self.choice, folder)

    def planned(self) -> PlacementReport:
        """Refuse what the accelerator would; return where the rest would run.

        Raises:
            PlacementRefused: as ``planned_report``.
        """
        identity = self.key.identity
        return planned_report(self.table, self.profile, self.choice, self.target.graph, identity=identity)

    def read_back(self, pieces: Sequence[RanPiece]) -> PlacementReport:
        """Return where the graph runs, by the pieces of it that a session was seen to run.

        Raises:
            PlacementRefused: too little of it runs on the accelerator, or in too many pieces.
        """
        table, identity = self.table, self.key.identity
        matched = match_pieces(table, pieces)
        plan, graph = describe(table, matched), self.target.graph
        report = accelerator_report(
            plan, self.profile, self.choice, graph, identity=identity, partitions=matched.pieces
        )
        hold_to(report, self.profile)
        return report


def open_job(bundle: Bundle, profile: HardwareProfile, choice: ProviderChoice) -> Job:
    """Return the job of a bundle, a profile with an accelerator, and the provider that was chosen for both.

    Raises:
        InvalidBundle: the bundle has no prefix for the accelerator, or the installed runtime is too old for it.
        CompileError: the environment leads the provider past what is kept.
    """
    check_environment(profile, choice)
    target = find_target(bundle, profile)
    check_runtime(bundle.manifest.graphs[target.graph], bundle.graph_path(target.graph))
    key = compile_key(bundle, target, profile, choice)
    return Job(bundle=bundle, profile=profile, choice=choice, target=target, key=key)


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


def accelerator_choice(profile: HardwareProfile, choice: ProviderChoice, folder: Path) -> ProviderChoice:
    """Return a choice with the options by which a provider keeps compiled models in an entry's folder, where it can.

    The graph is rewritten no further than before it is divided among the providers, so that the nodes of the CPU keep
    the names by which their placement is read back.
    """
    settings = choice.session_settings
    if settings.graph_optimization != "off":
        settings = dataclasses.replace(settings, graph_optimization="basic")
    options = dict(choice.options)
    if _keeps_own_cache(profile, choice):
        options |= STACKS[profile.execution.stack].cache_options(str(folder), _CACHE_NAME)
    return dataclasses.replace(choice, options=options, session_settings=settings)


def check_environment(profile: HardwareProfile, choice: ProviderChoice) -> None:
    """Refuse environment variables by which the provider would not take compiled models from the store.

    Raises:
        CompileError: with their names.
    """
    variables = [name for name in CACHE_VARIABLES if name in os.environ] if _keeps_own_cache(profile, choice) else []
    if variables:
        raise CompileError(
            f"the environment sets {', '.join(variables)}, by which {choice.provider} compiles past fieldtune's store; "
            "unset it"
        )


def _keeps_own_cache(profile: HardwareProfile, choice: ProviderChoice) -> bool:
    return not choice.emulated and bool(profile.execution.stack)
