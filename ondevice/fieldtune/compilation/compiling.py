"""compile_prefix: a bundle's prefix compiled for an accelerator, or for its emulation, and kept in the store."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from fieldtune.bundle import Bundle
from fieldtune.compilation.child import run_worker
from fieldtune.compilation.job import EMULATION_CONFIG, Job, open_job
from fieldtune.compilation.kept import CompiledStore, CompileKey, Entry, list_files, write_entry
from fieldtune.compilation.worker import Request
from fieldtune.errors import CompileError, listed
from fieldtune.hardware import HardwareProfile, OnMissing
from fieldtune.placement import PlacementReport, check_rules, choose_for, hold_to
from fieldtune.runtime import ProviderChoice

Progress: TypeAlias = Callable[[str], None]
"""Is told what begins."""


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
    choice: ProviderChoice | None = None,
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
        choice: the provider that was chosen for both; chosen here if None.
        on_missing: for that choice: what to do where the profile's provider is not there; what the profile says if
            None.
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
    choice = choice or choose_for(bundle, profile, on_missing=on_missing)
    if profile.accelerator is None:
        raise CompileError(
            f"the profile {profile.name} has no accelerator to compile for; the CPU runs graphs as they are"
        )
    if choice.runs_as_is:
        raise CompileError(f"there is nothing to compile, the CPU runs the prefix as it is: {choice.reason}")
    job = open_job(bundle, profile, choice)
    key, target = job.key, job.target
    kept = None if overwrite else store.find(key)
    if choice.emulated and kept is None:
        progress(f"checking {target.graph} against the rules of {target.target}")
    # What is kept for an emulation is planned again: the key lacks the memory that the profile states, its name and all
    # that it demands of a placement.
    planned = job.planned() if choice.emulated else None
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


def _suspicions(job: Job) -> str:
    """Say what the rules have against a graph that a real compiler did not take: it may crash without a word."""
    violations = () if job.choice.emulated else check_rules(job.table, job.profile)
    if not violations:
        return ""
    return f"\nBy what is known of {job.target.target}:{listed([violation.message for violation in violations])}"


def _compile(job: Job, planned: PlacementReport | None, folder: Path) -> Entry:
    """Have the child process compile into an entry's folder; return the entry, with what was planned or read back."""
    graph = job.target.graph
    writes_context = not job.choice.emulated and not job.keeps_own_cache
    context = f"{graph}_context.onnx" if writes_context else ""
    config = _context_config(folder / context) if writes_context else {}
    outcome = run_worker(
        Request(
            graph=str(job.path.resolve()),
            inputs=job.spec.inputs,
            choice=job.choice_for(folder),
            config=EMULATION_CONFIG if job.choice.emulated else config,
            context=str(folder / context) if context else "",
            folder=str(folder),
            least_s=job.profile.execution.compile_s if job.choice.emulated else 0.0,
        ),
        job.profile.execution.compile_timeout_s,
    )
    report = planned or job.read_back(outcome.pieces)
    files = list_files(folder)
    if not job.choice.emulated and not files:
        raise CompileError(f"{graph}: {job.choice.provider} kept no compiled form; check the provider's options")
    return Entry(
        key=job.key,
        bundle=str(job.bundle.root.resolve()),
        report=report,
        context=context,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        seconds=outcome.seconds,
        files=files,
    )


def _context_config(path: Path) -> dict[str, str]:
    """Return the session configuration by which ONNX Runtime writes what a provider compiles into an ONNX file."""
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(path),
        "ep.context_embed_mode": "0",  # beside the file: a protobuf holds 2 GB
    }
