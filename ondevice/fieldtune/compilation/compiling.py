"""compile_prefix: a bundle's prefix compiled for an accelerator, or for its emulation, and kept in the store."""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from fieldtune.bundle import Bundle, NodeTable, TargetSpec, read_node_table
from fieldtune.compilation.child import run_worker
from fieldtune.compilation.entry import Entry, list_files, write_entry
from fieldtune.compilation.key import CompileKey, compile_key
from fieldtune.compilation.planning import planned_report
from fieldtune.compilation.store import CompiledStore
from fieldtune.compilation.worker import Request
from fieldtune.errors import CompileError, listed
from fieldtune.hardware import CACHE_VARIABLES, STACKS, HardwareProfile, OnMissing
from fieldtune.placement import (
    PlacementPlan,
    PlacementReport,
    accelerator_report,
    check_rules,
    choose_for,
    describe,
    find_target,
    hold_to,
    match_pieces,
)
from fieldtune.placement.readback import RanPiece
from fieldtune.runtime import CPU_PROVIDER, ProviderChoice, check_runtime

Progress: TypeAlias = Callable[[str], None]
"""Is told what begins."""

EMULATION_CONFIG: Mapping[str, str] = {"session.disable_quant_qdq": "1"}
"""Each operator's result is rounded to eight bits, as on the accelerator; nothing is fused across that."""
_CACHE_NAME = "cache"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A compiled prefix.

    Attributes:
        folder: of its entry in the store.
        key: all that it depends on.
        report: where it runs.
        seconds: that compiling took on this machine; an emulation's say nothing about the accelerator.
        fresh: whether it was compiled now, or found in the store.
    """

    folder: Path
    key: CompileKey
    report: PlacementReport
    seconds: float
    fresh: bool


def compile_prefix(
    bundle: Bundle,
    profile: HardwareProfile,
    *,
    on_missing: OnMissing | None = None,
    overwrite: bool = False,
    store: CompiledStore | None = None,
    progress: Progress = lambda _: None,
) -> Compiled:
    """Compile a bundle's prefix for a profile's accelerator and keep it; one that is kept already is returned.

    An emulation goes the same way: what the accelerator would refuse is refused, the placement is planned and held
    against the profile, and a session of the CPU proves that the graph loads.

    Args:
        bundle: with a prefix for the accelerator.
        profile: of the device.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
        overwrite: compile again what is kept already.
        store: where it is kept; the one in the cache folder if None.
        progress: is told what begins.

    Raises:
        ProviderUnavailable: the provider is not there.
        InvalidBundle: the bundle has no prefix for the accelerator.
        PlacementRefused: the accelerator would refuse it, or too little or in too many pieces would run on it.
        CompileError: there is nothing to compile for; compiling fails, crashes or takes longer than the profile allows;
            or what is kept is damaged and not to be overwritten.
        OutputError: the store cannot be written.
    """
    store = store or CompiledStore()
    choice = choose_for(bundle, profile, None, on_missing)
    _check_accelerated(profile, choice)
    check_environment(profile, choice)
    target = find_target(bundle, profile)
    check_runtime(bundle.manifest.graphs[target.graph], bundle.graph_path(target.graph))
    key = compile_key(bundle, target, profile, choice)
    job = _Job(bundle=bundle, profile=profile, choice=choice, target=target, key=key)
    kept = None if overwrite else store.find(key)
    if choice.emulated and kept is None:
        progress(f"checking {target.graph} against the rules of {target.target}")
    # What is kept for an emulation is planned again: the key lacks the memory that the profile states, its name and all
    # that it demands of a placement.
    planned = (
        planned_report(job.table, profile, choice, target.graph, identity=key.identity) if choice.emulated else None
    )
    if kept is not None:
        report = planned or dataclasses.replace(kept.report, profile=profile.name, reason=choice.reason)
        hold_to(report, profile)
        return Compiled(folder=store.folder(key), key=key, report=report, seconds=kept.seconds, fresh=False)
    verb = "opening" if choice.emulated else "compiling"
    execution = profile.execution
    least = f", at least {execution.compile_s:g} s (simulated)" if choice.emulated and execution.compile_s else ""
    progress(f"{verb} {target.graph} with {choice.provider}, at most {execution.compile_timeout_s} s{least}")
    with store.staging(key) as folder:
        try:
            entry = _compile(job, planned, folder)
        except CompileError as error:
            raise CompileError(f"{error}{_suspicions(job)}") from error
        write_entry(entry, folder)
    return Compiled(folder=store.folder(key), key=key, report=entry.report, seconds=entry.seconds, fresh=True)


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


def _keeps_own_cache(profile: HardwareProfile, choice: ProviderChoice) -> bool:
    """Whether a provider keeps compiled models in files of its own, and not in an EPContext model."""
    return not choice.emulated and bool(profile.execution.stack)


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


def _check_accelerated(profile: HardwareProfile, choice: ProviderChoice) -> None:
    if profile.accelerator is None:
        raise CompileError(
            f"the profile {profile.name} has no accelerator to compile for; the CPU runs graphs as they are"
        )
    if choice.provider == CPU_PROVIDER and not choice.emulated:
        raise CompileError(f"there is nothing to compile, the CPU runs the prefix as it is: {choice.reason}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is compiled, for what, with what, and the key of it."""

    bundle: Bundle
    profile: HardwareProfile
    choice: ProviderChoice
    target: TargetSpec
    key: CompileKey

    @property
    def table(self) -> NodeTable:
        """The node table of the graph."""
        return read_node_table(self.bundle.root / self.bundle.manifest.graphs[self.target.graph].nodes)

    def report(self, plan: PlacementPlan, partitions: int | None = None) -> PlacementReport:
        """Return the report of a placement."""
        identity = self.key.identity
        return accelerator_report(
            plan, self.profile, self.choice, self.target.graph, identity=identity, partitions=partitions
        )


def _suspicions(job: _Job) -> str:
    """Say what the rules have against a graph that a real compiler did not take: it may crash without a word."""
    violations = () if job.choice.emulated else check_rules(job.table, job.profile)
    if not violations:
        return ""
    return f"\nBy what is known of {job.target.target}:{listed([violation.message for violation in violations])}"


def _compile(job: _Job, planned: PlacementReport | None, folder: Path) -> Entry:
    """Have the child process compile into an entry's folder; return the entry, with what was planned or read back."""
    graph, bundle = job.target.graph, job.bundle
    writes_context = not job.choice.emulated and not _keeps_own_cache(job.profile, job.choice)
    context = f"{graph}_context.onnx" if writes_context else ""
    config = _context_config(folder / context) if writes_context else {}
    outcome = run_worker(
        Request(
            graph=str(bundle.graph_path(graph).resolve()),
            inputs=bundle.manifest.graphs[graph].inputs,
            choice=accelerator_choice(job.profile, job.choice, folder),
            config=EMULATION_CONFIG if job.choice.emulated else config,
            context=str(folder / context) if context else "",
            folder=str(folder),
            least_s=job.profile.execution.compile_s if job.choice.emulated else 0.0,
        ),
        job.profile.execution.compile_timeout_s,
    )
    report = planned or _read_back(job, outcome.pieces)
    hold_to(report, job.profile)
    files = list_files(folder)
    if not job.choice.emulated and not files:
        raise CompileError(f"{graph}: {job.choice.provider} kept no compiled form; check the provider's options")
    return Entry(
        key=job.key,
        bundle=str(bundle.root.resolve()),
        report=report,
        context=context,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        seconds=outcome.seconds,
        files=files,
    )


def _read_back(job: _Job, pieces: Sequence[RanPiece]) -> PlacementReport:
    table = job.table
    read = match_pieces(table, pieces)
    return job.report(describe(table, read), read.pieces)


def _context_config(path: Path) -> dict[str, str]:
    """Return the session configuration by which ONNX Runtime writes what a provider compiles into an ONNX file."""
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(path),
        "ep.context_embed_mode": "0",  # beside the file: a protobuf holds 2 GB
    }
