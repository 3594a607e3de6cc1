"""``fieldtune cache``: what is kept in the cache folder, and removing it."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fieldtune.cli.shared import JsonFlag, new_table, print_json, print_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.activations import StoredActivations
    from fieldtune.compilation import CompiledStore, Stored

_IDENTITY_DIGITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """List or remove what fieldtune keeps on this device: compiled prefixes, and activations of training examples.

    Everything in it is made again when it is needed. Activations can be turned back into what they were computed from,
    so remove them with the examples. Do not remove while a run or a compile is going on. What stays is named with the
    reason, and the exit code is 1.

    Examples:
      fieldtune cache list
      fieldtune cache clear --activations
    """

    action: Annotated[Literal["list", "clear"], tyro.conf.Positional, tyro.conf.arg(metavar="{list,clear}")]
    """What to do."""

    compiled: bool = False
    """Compiled prefixes only."""

    activations: bool = False
    """Activations only."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Cache, _console: "Console") -> int:
    """List or clear the cache; return the exit code.

    Raises:
        OutputError: what was to be cleared stays, each with its reason.
    """
    (_list if command.action == "list" else _clear)(command)
    return 0


def _wants(command: Cache) -> tuple[bool, bool]:
    """Return whether compiled prefixes and activations are meant."""
    both = command.compiled == command.activations
    return command.compiled or both, command.activations or both


def _list(command: Cache) -> None:
    from fieldtune.activations import list_activations
    from fieldtune.compilation import CompiledStore

    compiled, activations = _wants(command)
    _show(command, CompiledStore().list() if compiled else [], list_activations() if activations else ())


def _show(command: Cache, compiled: "Sequence[Stored]", activations: "Sequence[StoredActivations]") -> None:
    from fieldtune.files import cache_folder

    if command.as_json:
        records = [_record(stored) for stored in compiled]
        print_json({"folder": cache_folder(), "compiled": records, "activations": list(activations)})
        return
    tables = [_compiled_table(compiled)] if compiled else []
    print_tables(*tables, *([_activations_table(activations)] if activations else []))
    if not compiled and not activations:
        sys.stdout.write(f"nothing is kept in {cache_folder()}\n")


def _compiled_table(compiled: "Sequence[Stored]") -> "Table":
    table = new_table("Compiled prefixes", ("identity", "for", "emulated", ">size", "compiled", "of"))
    for stored in compiled:
        name, entry, size = stored.folder.name[:_IDENTITY_DIGITS], stored.entry, _size(stored.size_bytes)
        if entry is None:
            table.add_row(name, "-", "-", size, "-", _one_line(stored.fault))
        else:
            table.add_row(
                name, entry.key.target, _said(entry.key.emulated), size, entry.created, _one_line(entry.bundle)
            )
    return table


def _activations_table(activations: "Sequence[StoredActivations]") -> "Table":
    table = new_table("Activations", (">samples", ">size", "graph", "emulated", "of"))
    for stored in activations:
        prefix, size = stored.prefix, _size(stored.size_bytes)
        of = _one_line(f"{prefix.base}, profile {prefix.profile}")
        table.add_row(f"{stored.samples:,}", size, prefix.graph, _said(prefix.emulated), of)
    return table


def _clear(command: Cache) -> None:
    from fieldtune.errors import OutputError, listed

    compiled, activations = _wants(command)
    # Activations first: they are what somebody could want to be rid of, and nothing that fails later is in their way.
    removed, faults = _clear_activations() if activations else ((), [])
    deleted, more = _clear_compiled() if compiled else ([], [])
    faults = [*faults, *more]
    size_bytes = sum(stored.size_bytes for stored in deleted) + sum(stored.size_bytes for stored in removed)
    if command.as_json:
        counts = {"compiled": len(deleted), "activations": len(removed)}
        print_json({"removed": counts, "kept": faults, "size_bytes": size_bytes})
    else:
        said = f"removed {len(deleted)} compiled prefix(es) and the activations of {len(removed)}: {_size(size_bytes)}"
        sys.stdout.write(said + "\n")
    if faults:
        sys.stdout.flush()
        raise OutputError(f"not everything could be removed:{listed(faults)}")


def _clear_activations() -> "tuple[Sequence[StoredActivations], list[str]]":
    """Return what was removed, and why the rest stays."""
    from fieldtune.activations import clear_activations
    from fieldtune.errors import OutputError

    try:
        cleared = clear_activations()
    except OutputError as error:
        return (), [str(error)]
    return cleared.removed, [kept.reason for kept in cleared.kept]


def _clear_compiled() -> "tuple[Sequence[Stored], list[str]]":
    """Return what was deleted, and why the rest stays."""
    from fieldtune.compilation import CompiledStore

    store = CompiledStore()
    tried = [(stored, _delete(store, stored)) for stored in store.list()]
    return [stored for stored, fault in tried if not fault], [fault for _, fault in tried if fault]


def _delete(store: "CompiledStore", stored: "Stored") -> str:
    """Delete a folder of the store; return why it stays, "" where it is gone."""
    from fieldtune.errors import OutputError

    try:
        store.delete(stored)
    except OutputError as error:
        return str(error)
    return ""


def _record(stored: "Stored") -> dict[str, Any]:
    entry = stored.entry
    record: dict[str, Any] = {"folder": stored.folder, "size_bytes": stored.size_bytes, "fault": stored.fault}
    if entry is not None:
        record |= {"key": entry.key, "bundle": entry.bundle, "created": entry.created}
        record["placement"] = entry.report.to_json()
    return record


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _said(flag: bool) -> str:
    return "yes" if flag else "no"


def _one_line(text: str) -> str:
    return " ".join(text.split())
