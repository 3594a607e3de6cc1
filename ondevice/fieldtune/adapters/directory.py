"""PEFT adapter directories, read and written without PEFT: nothing pickled, nothing lost on the way through.

A directory is adapter_config.json (fields of PEFT's configuration), adapter_model.safetensors, and, optionally,
fieldtune.json: the card, which says what PEFT's two files do not (the digest of the base, the task, the names of the
labels). Format 1.0.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldtune.adapters.adapter import CARD_VERSION, Adapter, AdapterCard
from fieldtune.adapters.methods import all_methods, method_of
from fieldtune.adapters.tensors import TensorFile, read_tensors
from fieldtune.bundle import Bundle
from fieldtune.errors import InvalidAdapter, OutputError, listed
from fieldtune.files import Fields, check_version, parse_json

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"
CARD_NAME = "fieldtune.json"
README_NAME = "README.md"


def read_adapter(path: str | Path) -> Adapter:
    """Read a PEFT directory.

    Raises:
        InvalidAdapter: not an adapter of a method that is known, a file that is missing or corrupt, or settings that
            are not supported; every such setting is listed.
        UnsupportedFormat: a fieldtune.json in another major version.
    """
    root = Path(path)
    try:
        return _read(root)
    except OSError as error:  # no right to look into it, or a name that no folder can have
        raise InvalidAdapter(
            f"{root}: cannot be read ({error.strerror}); name the folder that PEFT saved to"
        ) from error


def initial_adapter(bundle: Bundle) -> Adapter:
    """Return a bundle's initial adapter; an empty one, of the merged one's name, where an adapter is in the weights.

    Raises:
        InvalidAdapter: it cannot be read.
    """
    merged = bundle.manifest.merged
    if merged is None:
        return read_adapter(bundle.adapter_path)
    return Adapter(config={}, tensors=TensorFile(tensors={}, metadata={}), card=None, where=merged.adapter)


def write_adapter(adapter: Adapter, path: str | Path) -> None:
    """Write an adapter as a PEFT directory: a new one, or an empty one that exists.

    adapter_config.json comes last, and without it nobody takes the directory for an adapter: a half is never read.

    Raises:
        OutputError: the directory holds something, or cannot be written; no half of an adapter is left in it.
    """
    root = Path(path)
    files = {TENSORS_NAME: adapter.tensors.to_bytes()}
    if adapter.card is not None:
        files[CARD_NAME] = adapter.card.to_json().encode()
    files[README_NAME] = _readme(adapter).encode()
    # PEFT's own form, so that what it wrote comes out byte for byte.
    files[CONFIG_NAME] = json.dumps(adapter.config, indent=2).encode()
    made = not root.exists()
    written: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise OutputError(f"{root}: is not empty; name another folder for the adapter, or empty this one")
        for name, data in files.items():
            written.append(root / name)
            _write_durably(root / name, data)
    except OSError as error:
        _take_back(root, written, made=made)
        raise OutputError(f"{root}: the adapter cannot be written ({error.strerror}); name another folder") from error
    except KeyboardInterrupt:
        _take_back(root, written, made=made)
        raise


def _read(root: Path) -> Adapter:
    if not root.is_dir():
        reason = "a file" if root.exists() else "no such folder"
        raise InvalidAdapter(f"{root}: not a PEFT adapter ({reason}); expected a folder that holds {CONFIG_NAME}")
    if not (root / CONFIG_NAME).is_file():
        raise InvalidAdapter(f"{root}: not a PEFT adapter (no {CONFIG_NAME} in it); name the folder that PEFT saved to")
    config = _read_json(root / CONFIG_NAME)
    _check_config(config, root / CONFIG_NAME)
    if not (root / TENSORS_NAME).is_file():
        if (root / "adapter_model.bin").is_file():
            raise InvalidAdapter(
                f"{root}: has adapter_model.bin, a pickle, which is never read; load it with PEFT and save it with "
                f"safe_serialization=True to get {TENSORS_NAME}"
            )
        raise InvalidAdapter(f"{root}: no {TENSORS_NAME} in it; copy the adapter again")
    return Adapter(
        config=config,
        tensors=read_tensors(root / TENSORS_NAME),
        card=_read_card(root / CARD_NAME) if (root / CARD_NAME).exists() else None,
        where=str(root),
    )


def _read_json(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidAdapter(f"{path}: cannot be read ({error.strerror}); copy the adapter again") from error
    return parse_json(data, path, InvalidAdapter, "copy the adapter again")


def _check_config(config: object, where: Path) -> None:
    peft_type = Fields(config, where, InvalidAdapter).text("peft_type")
    assert isinstance(config, Mapping)
    method = method_of(config)
    if method is None:
        known = " or ".join(dict.fromkeys(repr(method.peft_type) for method in all_methods()))
        raise InvalidAdapter(
            f"{where}: 'peft_type' is {peft_type!r}; expected {known}: the device knows "
            f"{', '.join(method.title for method in all_methods())}"
        )
    faults = method.setting_faults(config)
    if faults:
        raise InvalidAdapter(f"{where}: settings that are not supported on the device{listed(faults)}")


def _read_card(path: Path) -> AdapterCard:
    table = Fields(_read_json(path), path, InvalidAdapter)
    later = check_version(table.text("format_version"), CARD_VERSION, str(path))
    card = AdapterCard(
        format_version=table.text("format_version"),
        base_sha256=table.optional_text("base_sha256"),
        task=table.text("task"),
        labels=table.texts("labels"),
        training=table.plain("training") if "training" in table else None,
    )
    if not later:
        table.done()
    return card


def _readme(adapter: Adapter) -> str:
    base = adapter.config.get("base_model_name_or_path")
    # A JSON string is a YAML string, too, whatever is in the name.
    front = [f"base_model: {json.dumps(base)}"] if base else []
    method = method_of(adapter.config)
    tags: tuple[str, ...] = ("fieldtune",)
    title = "Adapter"
    if method is not None:
        tags, title = (method.name, *tags), f"{method.title} adapter"
    lines = ["---", *front, "library_name: peft", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
    lines += [f"# {title} for {base or 'a base model'}", ""]
    if adapter.card:
        labels = f", labels {', '.join(adapter.card.labels)}" if adapter.card.labels else ""
        lines += [f"Task: {adapter.card.task}{labels}.", ""]
    lines += ["Load it with `PeftModel.from_pretrained`, or on a device with `fieldtune run BUNDLE --adapter DIR`.", ""]
    return "\n".join(lines)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # A board may lose power at any time; without this the later files could be on disk before this one.
        os.fsync(file.fileno())


def _take_back(root: Path, written: list[Path], *, made: bool) -> None:
    try:
        for path in written:
            path.unlink(missing_ok=True)
        if made and root.exists():
            root.rmdir()
    except OSError:
        return  # the error that led here is the one to tell
