"""``fieldtune profiles``: which hardware profiles there are, what one says, and which fits this machine."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fieldtune.cli.shared import JsonFlag, new_table, print_json, print_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.hardware import HardwareProfile, MachineFacts, Proposal

_DETECT = "detect"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profiles:
    """List the hardware profiles, show one with the sources of its figures, or propose one for this machine.

    Examples:
      fieldtune profiles
      fieldtune profiles raspberry-pi-5
      fieldtune profiles detect
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """Profile to show: a name, or a .toml file; or the word detect."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Profiles, _console: "Console") -> int:
    """Print the profiles; return the exit code."""
    from fieldtune.files import json_value
    from fieldtune.hardware import load_profile, load_profiles

    if command.name == _DETECT:
        return _detect(as_json=command.as_json)
    if command.name is not None:
        profile = load_profile(command.name)
        here = _here(profile)
        if command.as_json:
            print_json({**json_value(profile), "here": here})
            return 0
        print_tables(*profile_tables(profile))
        table = new_table("With the ONNX Runtime of this machine")
        for key, value in here.items():
            table.add_row(key, _text(key, value))
        print_tables(table)
        return 0
    profiles = sorted(load_profiles(), key=lambda profile: profile.name)
    if command.as_json:
        print_json({"profiles": profiles})
        return 0
    table = new_table("Hardware profiles", ("name", "device", "provider", "stack", "target", "support"))
    for profile in profiles:
        target = profile.accelerator.target if profile.accelerator else ""
        execution = profile.execution
        table.add_row(profile.name, profile.title, execution.provider, execution.stack, target, profile.support)
    print_tables(table)
    return 0


def profile_tables(profile: "HardwareProfile") -> "list[Table]":
    """Return a profile as tables: what it says, and where that is from."""
    table = new_table(f"{profile.name}: {profile.title}")
    table.add_row("description", profile.description)
    table.add_row("support", profile.support)
    for name in ("cpu", "memory", "execution", "runtime", "training", "accelerator", "detect"):
        part = getattr(profile, name)
        for key, value in _leaves(part) if part is not None else ():
            table.add_row(f"{name}.{key}", _text(key, value))
    sources = new_table("Sources", ("what", "where"))
    for source in profile.sources:
        sources.add_row(source.what, source.where)
    return [table, sources]


def proposal_tables(facts: "MachineFacts", proposal: "Proposal") -> "list[Table]":
    """Return a proposal as tables: what was seen, what is proposed and why, and what to do."""
    seen = new_table("This machine")
    for key, value in _leaves(facts):
        seen.add_row(key.removesuffix("_bytes").replace("_", " "), _text(key, value))
    proposed = new_table(f"Proposed profile: {proposal.name}")
    rows = (("because", proposal.reasons), ("warning", proposal.warnings), ("next", _next_steps(facts, proposal)))
    for title, texts in rows:
        for text in texts:
            proposed.add_row(title, text)
    tables = [seen, proposed]
    if proposal.others:
        others = new_table("Others that may fit", ("name", "reason"))
        for other in proposal.others:
            others.add_row(other.name, other.reason)
        tables.append(others)
    return tables


def _detect(*, as_json: bool) -> int:
    from fieldtune.hardware import features, load_profiles, machine_facts, propose

    facts = machine_facts(runtime=features())
    proposal = propose(facts, load_profiles())
    if as_json:
        print_json({"machine": facts, "proposal": proposal, "next": _next_steps(facts, proposal)})
    else:
        print_tables(*proposal_tables(facts, proposal))
    return 0


def _here(profile: "HardwareProfile") -> dict[str, object]:
    """Return where a run with the profile would go with the installed ONNX Runtime, or why it would not start."""
    from fieldtune.errors import ProviderUnavailable
    from fieldtune.runtime import choose_here

    try:
        choice = choose_here(profile)
    except ProviderUnavailable as error:
        return {"error": str(error)}
    return {"provider": choice.provider, "emulated": choice.emulated, "reason": choice.reason}


def _next_steps(facts: "MachineFacts", proposal: "Proposal") -> list[str]:
    """Say how to use the proposal, and how to describe a machine that no profile knows."""
    from fieldtune.hardware import FOLDERS_VARIABLE, profile_path

    steps = [f"use it: --profile {proposal.name}"]
    if proposal.to_copy:
        entry = f'device_tree = ["{facts.device_tree}"]' if facts.device_tree else "pci_ids or device_tree"
        steps.append(
            f"to have this machine recognized, copy {profile_path(proposal.to_copy)}, name and correct the copy, put "
            f"{entry} under [detect], and set {FOLDERS_VARIABLE} to its folder"
        )
    return steps


def _leaves(part: Any) -> Iterator[tuple[str, object]]:
    """Iterate over what a part states, the values of a part inside it by dotted keys."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{field.name}.{key}", leaf) for key, leaf in _leaves(value))
        elif value not in (None, "", (), {}):
            yield field.name, value


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if name.endswith("frequency_hz") and isinstance(value, int):
        return f"{value / 1e9:g} GHz"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item}" for key, item in value.items())
    return str(value)
