"""``fieldtune check``: whether a bundle would run on a device, where, in how much memory, and about how fast."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fieldtune.cli.shared import (
    DEFAULT_PROFILE,
    BundlePath,
    JsonFlag,
    ProfileName,
    UsageError,
    new_table,
    percent,
    print_json,
    print_tables,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.hardware import HardwareProfile
    from fieldtune.preflight import GraphPlacement, Preflight

_SHOWN = 20
"""Of refused nodes and of reasons in a table; --json has all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Say whether a bundle would run on a device, without running it and without the device.

    Reads the bundle's manifest and node tables, and the profile: what would run where, what the accelerator would
    refuse and why, memory, storage, and an estimated time. Exit code 1 if it cannot run.

    Examples:
      fieldtune check BUNDLE --profile raspberry-pi-5
      fieldtune check BUNDLE --profile vek280 --batch-size 14 --samples 2000
      fieldtune check BUNDLE --profile ./small-board.toml --max-length 64 --json
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    profile: ProfileName = DEFAULT_PROFILE
    """Hardware profile: a name that fieldtune profiles lists, or a .toml file."""

    batch_size: int | None = None
    """Examples that go through the graphs together; if not given, the profile's training batch."""

    max_length: int | None = None
    """Tokens of a text; if not given, the profile's or the model's limit."""

    samples: int | None = None
    """Examples in the data; if not given, neither they nor the activation cache are counted."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Check, _console: "Console") -> int:
    """Check and print the tables; return the exit code."""
    from fieldtune.bundle import open_tables
    from fieldtune.hardware import load_profile
    from fieldtune.preflight import check_bundle

    for name, value, least in (("batch-size", command.batch_size, 1), ("max-length", command.max_length, 1),
                               ("samples", command.samples, 0)):  # fmt: skip
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}; expected at least {least}")
    profile, bundle = load_profile(command.profile), open_tables(command.bundle)
    try:
        preflight = check_bundle(
            bundle,
            profile,
            batch_size=command.batch_size,
            max_length=command.max_length,
            samples=command.samples,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if command.as_json:
        print_json({"bundle": bundle.root, "profile": profile.name, **_facts(preflight)})
    else:
        print_tables(*_tables(command, profile, preflight))
    if preflight.runs:
        return 0
    more = f", and {len(preflight.refusals) - 1} more" if len(preflight.refusals) > 1 else ""
    sys.stdout.flush()
    sys.stderr.write(f"fieldtune: error: cannot run on {profile.name}: {preflight.refusals[0]}{more}\n")
    return 1


def _facts(preflight: "Preflight") -> dict[str, Any]:
    from fieldtune.files import json_value

    facts: dict[str, Any] = json_value(preflight)
    for entry, prediction in zip(facts["memory"], preflight.memory, strict=True):
        entry["total_bytes"] = prediction.total_bytes
    return {"runs": preflight.runs, **facts}


def _tables(command: Check, profile: "HardwareProfile", preflight: "Preflight") -> "list[Table]":
    tables = [_head(command, profile, preflight)]
    if preflight.placements:
        tables.append(_placement(preflight))
    for placement in preflight.placements:
        tables += _details(placement)
    if preflight.memory:
        tables.append(_memory(preflight))
    tables.append(_storage(command, preflight))
    if preflight.times:
        tables.append(_times(profile, preflight))
    return tables


def _head(command: Check, profile: "HardwareProfile", preflight: "Preflight") -> "Table":
    verdict = "would run" if preflight.runs else "cannot run"
    table = new_table(f"{command.bundle} {verdict} on {profile.name} ({profile.title})")
    size = f"{preflight.batch} examples" + (f" of {preflight.sequence} tokens" if preflight.sequence else "")
    table.add_row("checked for", f"{size}; nothing was run")
    for title, lines in (("refused", preflight.refusals), ("warning", preflight.warnings)):
        for line in lines[:_SHOWN]:
            table.add_row(title, line)
        if len(lines) > _SHOWN:
            table.add_row(title, f"… and {len(lines) - _SHOWN} more: --json has all")
    return table


def _placement(preflight: "Preflight") -> "Table":
    # Of graphs that run in one place there is nothing to say about pieces and what crosses between them.
    divided = any(len(placement.shares) != 1 for placement in preflight.placements)
    across = (">partitions", ">bytes across") if divided else ()
    table = new_table("What would run where", ("graph", ">batch", "runs on", ">nodes", ">MACs", ">share", *across))
    for placement in preflight.placements:
        total = sum(share.macs for share in placement.shares)
        head = [placement.graph, str(placement.batch)]
        tail = [str(placement.partitions), _size(placement.boundary_bytes)] if len(placement.shares) > 1 else []
        for share in placement.shares:
            part = percent(share.macs / total) if total else "-"
            table.add_row(*head, share.provider, str(share.nodes), _count(share.macs), part, *tail)
            head, tail = ["", ""], []
        if not placement.shares:
            table.add_row(*head, "nowhere: refused")
    return table


def _details(placement: "GraphPlacement") -> "Iterator[Table]":
    if placement.left:
        table = new_table(f"{placement.graph}: left to the CPU", ("operator", ">nodes", "why"))
        for left in placement.left[:_SHOWN]:
            table.add_row(left.op, str(left.nodes), left.reason)
        yield table
    if placement.violations:
        table = new_table(f"{placement.graph}: refused", ("rule", "node", "found", "allowed"))
        for violation in placement.violations[:_SHOWN]:
            table.add_row(violation.rule, violation.node, violation.found, violation.limit)
        yield table


def _memory(preflight: "Preflight") -> "Table":
    limit = "" if preflight.memory_limit_bytes is None else f" of {_size(preflight.memory_limit_bytes)}"
    table = new_table(f"Peak memory{limit}, predicted", ("", *(f">{use.use}" for use in preflight.memory)))
    rows = {
        "programs": "process_bytes",
        "tokenizer, examples, batch": "data_bytes",
        "opened graphs": "session_bytes",
        "weights, mapped from the file": "mapped_bytes",
        "weights, packed or changed": "copied_bytes",
        "activations": "activation_bytes",
        "memory pattern": "pattern_bytes",
        "adapter and optimizer": "adapter_bytes",
        "on the accelerator": "accelerator_bytes",
        "together": "total_bytes",
    }
    for title, name in rows.items():
        sizes = [getattr(use, name) for use in preflight.memory]
        if any(sizes):
            table.add_row(title, *map(_size, sizes))
    return table


def _storage(command: Check, preflight: "Preflight") -> "Table":
    storage, table = preflight.storage, new_table("Storage")
    table.add_row("bundle", _size(storage.bundle_bytes))
    if storage.adapter_bytes:
        table.add_row("each adapter", _size(storage.adapter_bytes))
        table.add_row("optimizer state", _size(storage.optimizer_bytes))
    if storage.compiled_bytes:
        table.add_row("compiled prefix, estimated", _size(storage.compiled_bytes))
    if storage.sample_bytes:
        each = f"{_size(storage.sample_bytes)} each example"
        whole = "" if storage.activation_bytes is None else f", {_size(storage.activation_bytes)} for {command.samples}"
        table.add_row("activation cache", f"{each}{whole}")
    return table


def _times(profile: "HardwareProfile", preflight: "Preflight") -> "Table":
    split = any(time.prefix_macs for time in preflight.times)
    basis = "at peak rate" if profile.accelerator else "on the CPU"
    columns = ("", ">MACs", ">time", *((">prefix: MACs", f">time {basis}") if split else ()))
    table = new_table(f"A batch of {preflight.batch}, estimated (CPU: {preflight.times[0].basis})", columns)
    for time in preflight.times:
        prefix = (_count(time.prefix_macs), _time(time.prefix_s)) if split else ()
        table.add_row(time.use, _count(time.macs), _time(time.seconds), *prefix)
    return table


def _count(number: int) -> str:
    return f"{number / 1e9:,.3f} G" if number >= 1e6 else f"{number:,}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _time(seconds: float | None) -> str:
    if not seconds:
        return "unknown" if seconds is None else "-"
    factor, unit = next((pair for pair in ((1, "s"), (1e3, "ms")) if seconds * pair[0] >= 1), (1e6, "µs"))
    return f"≈ {seconds * factor:,.{0 if seconds * factor >= 10 else 1}f} {unit}"
