"""CompileKey: all that a compiled form depends on, and in which parts two differ."""

import dataclasses
import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fieldtune.bundle import Bundle, TargetSpec
from fieldtune.compilation.kept.versions import driver_version, provider_version
from fieldtune.errors import InvalidBundle
from fieldtune.files import json_value
from fieldtune.hardware import STACKS, HardwareProfile, features
from fieldtune.runtime import ProviderChoice

_SHOWN = 12
"""Digits of a digest that a message shows."""
# A StringStringEntryProto of an initializer's external_data (onnx.proto): key (field 1) "location", value (field 2),
# whose length takes one or two bytes.
_LOCATION = re.compile(rb"\x0a\x08location\x12(?:([\x00-\x7f])|([\x80-\xff])([\x00-\x7f]))")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CompileKey:
    """All that a compiled form depends on; a form that was compiled under another key is not used.

    Attributes:
        model: digest of the graph and of its weights.
        target: the compiler's name of the accelerator.
        accelerator: digest of all that the profile says of the accelerator.
        stack: the software stack whose options these are.
        driver: versions of the accelerator's driver; "" where none is found.
        provider: ONNX Runtime's name of the provider that was asked for.
        provider_version: of what compiles.
        options: name of each of the provider's options → digest of its value, and of the file that it names.
        runtime: version of ONNX Runtime.
        emulated: whether the CPU stands in for the accelerator.
    """

    model: str
    target: str
    accelerator: str
    stack: str
    driver: str
    provider: str
    provider_version: str
    options: Mapping[str, str]
    runtime: str
    emulated: bool

    @property
    def identity(self) -> str:
        """The digest of all parts, hexadecimal."""
        return digest_of(dataclasses.asdict(self))

    def differences(self, current: "CompileKey") -> list[str]:
        """Return in what this, a stored key, differs from the current one: a line for each part, with both values."""
        lines = []
        for field in dataclasses.fields(self):
            stored, now = getattr(self, field.name), getattr(current, field.name)
            if stored == now:
                continue
            if field.name == "options":
                names = sorted(name for name in {*stored, *now} if stored.get(name) != now.get(name))
                lines += [f"option {name}: {_change(stored.get(name), now.get(name))}" for name in names]
            else:
                lines.append(f"{_CALLED.get(field.name, field.name)}: {_change(stored, now)}")
        return lines


_CALLED = {
    "model": "model (the graph and its weights)",
    "accelerator": "accelerator (what the profile says of it)",
    "provider_version": "provider version",
    "runtime": "ONNX Runtime",
}


def compile_key(bundle: Bundle, target: TargetSpec, profile: HardwareProfile, choice: ProviderChoice) -> CompileKey:
    """Return the key of a bundle's prefix as it would be compiled here and now.

    Args:
        bundle: whose files were checked against the manifest when it was opened.
        target: one of the bundle's.
        profile: of the device; it has an accelerator.
        choice: the provider that would compile, or the CPU in its place.

    Raises:
        InvalidBundle: the graph's weights lie in a file that is not the bundle's.
    """
    execution = profile.execution
    # Where compiled models are kept is the store's affair.
    kept = STACKS[execution.stack].cache_options("", "") if execution.stack else {}
    return CompileKey(
        model=model_digest(bundle, target.graph),
        target=target.target,
        accelerator=digest_of(json_value(profile.accelerator)),
        stack=execution.stack,
        driver="" if choice.emulated else driver_version(),
        provider=choice.requested,
        provider_version=provider_version(choice),
        options={name: option_digest(value) for name, value in execution.options.items() if name not in kept},
        runtime=features().version,
        emulated=choice.emulated,
    )


def model_digest(bundle: Bundle, graph: str) -> str:
    """Return the digest of a graph's file and of the files that hold its weights, by the manifest's digests of them.

    Raises:
        InvalidBundle: it has no such graph, or weights that lie in a file that is not the bundle's.
    """
    path, files = bundle.graph_path(graph), bundle.manifest.files
    name = PurePosixPath(bundle.manifest.graphs[graph].path)
    digests = [files[str(name)].sha256]
    for location in external_files(path):
        file = str(name.parent / location)
        if file not in files:
            raise InvalidBundle(
                f"{path}: its weights lie in {location!r}, which is not in the manifest; build it again"
            )
        digests.append(files[file].sha256)
    return digest_of(digests)


def external_files(path: Path) -> tuple[str, ...]:
    """Return the files in which a graph's weights lie, relative to its own folder, sorted."""
    locations = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _LOCATION.finditer(data):
            short, low, high = match.groups()
            length = short[0] if short else (low[0] & 0x7F) | high[0] << 7
            locations.add(data[match.end() : match.end() + length].decode("utf-8", errors="replace"))
    return tuple(sorted(locations))


def option_digest(value: str) -> str:
    """Return the digest of an option's value and, where it names a file, of that: values may be secret keys."""
    path = Path(value)
    try:
        content = path.read_bytes() if value and path.is_file() else b""
    except OSError:
        content = b""
    return digest_of([value, hashlib.sha256(content).hexdigest()])


def _change(stored: object, now: object) -> str:
    return f"stored {_shown(stored)}, now {_shown(now)}"


def _shown(value: object) -> str:
    if value in (None, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return f"{text[:_SHOWN]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def digest_of(value: Any) -> str:
    """Return the digest of what json.dumps takes, hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
