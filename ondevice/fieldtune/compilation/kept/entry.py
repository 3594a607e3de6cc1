"""Entry: one compiled form in the store, with the key that it belongs to; entry.json and its files, checked.

Format 1.0.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldtune.bundle import FileSpec, file_spec
from fieldtune.compilation.kept.key import CompileKey
from fieldtune.errors import CompileError, listed
from fieldtune.files import Fields, check_version, json_text, json_value, parse_json
from fieldtune.placement import PlacementReport, read_report

FORMAT_VERSION = "1.0"
ENTRY_NAME = "entry.json"
_REPORTS = (".json", ".txt", ".log")
"""A vendor's provider writes its reports into its cache again whenever a session is opened; they only have to exist."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One compiled form.

    Attributes:
        key: what it was compiled from, for and with.
        bundle: path of the bundle, as it was then.
        report: where the graph runs.
        context: the ONNX file that holds the compiled form, relative to the entry; "" where the provider keeps it in
            files of its own, and where it is emulated.
        created: when, in UTC, as ISO 8601 has it.
        seconds: that compiling took on this machine; an emulation's say nothing about the accelerator.
        files: all others of the entry, by path relative to it.
    """

    key: CompileKey
    bundle: str
    report: PlacementReport
    context: str
    created: str
    seconds: float
    files: Mapping[str, FileSpec]


def write_entry(entry: Entry, folder: Path) -> None:
    """Write entry.json beside the files of the entry.

    Raises:
        OSError: it cannot be written.
    """
    data = {
        "format_version": FORMAT_VERSION,
        "identity": entry.key.identity,
        **json_value(entry),
        "report": entry.report.to_json(),
    }
    (folder / ENTRY_NAME).write_text(json_text(data), encoding="utf-8")


def read_entry(folder: Path) -> Entry:
    """Read an entry, without looking at its other files.

    Raises:
        CompileError: it is damaged.
        UnsupportedFormat: another major version of the format.
    """
    path = folder / ENTRY_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror or error}") from error
    table = Fields(parse_json(data, path, CompileError), path, CompileError)
    check_version(table.text("format_version"), FORMAT_VERSION, str(path))
    key = _key(table.table("key"))
    if key.identity != table.text("identity"):
        raise CompileError(f"{path}: its key has another identity than it states; it was altered")
    return Entry(
        key=key,
        bundle=table.text("bundle"),
        report=read_report(table.table("report")),
        context=table.text("context"),
        created=table.text("created"),
        seconds=table.number("seconds"),
        files={
            name: FileSpec(sha256=file.text("sha256"), size_bytes=file.integer("size_bytes"))
            for name, file in table.named_tables("files").items()
        },
    )


def check_files(entry: Entry, folder: Path) -> None:
    """Check that every file of an entry is there and unaltered.

    Raises:
        CompileError: with every fault, up to 20.
    """
    faults = []
    for name, spec in entry.files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name}: missing")
        elif path.suffix not in _REPORTS or name == entry.context:
            written = file_spec(path)
            if written != spec:
                faults.append(f"{name}: altered ({written.size_bytes} bytes; {spec.size_bytes} were written)")
    if faults:
        raise CompileError(f"{folder}: {len(faults)} damaged file(s){listed(faults)}")


def file_names(folder: Path) -> list[str]:
    """Return every file below a folder but entry.json, relative to it, sorted."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY_NAME)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def list_files(folder: Path) -> dict[str, FileSpec]:
    """Return the digest and size of every file below a folder but entry.json."""
    return {name: file_spec(folder / name) for name in file_names(folder)}


def _key(table: Fields) -> CompileKey:
    values: dict[str, Any] = {
        field.name: table.text(field.name)
        for field in dataclasses.fields(CompileKey)
        if field.name not in ("options", "emulated")
    }
    options = table.table("options")
    return CompileKey(**values, options={name: options.text(name) for name in options}, emulated=table.flag("emulated"))
