"""An adapter in memory, as PEFT stores it, and the card that says what PEFT's files do not."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from fieldtune.adapters.tensors import TensorFile
from fieldtune.bundle import Manifest

CARD_VERSION = "1.0"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdapterCard:
    """All of fieldtune.json.

    Attributes:
        base_sha256: of the base that the adapter was trained on, as the bundle's manifest has it; None if unknown.
        task: as the bundle's manifest names it.
        labels: names of the classes in the order of the logits; empty for text generation.
        training: how it was trained; a free table, None if it was not.
    """

    base_sha256: str | None
    task: str
    labels: tuple[str, ...]
    training: Mapping[str, Any] | None = None
    format_version: str = CARD_VERSION

    def to_json(self) -> str:
        """Return the text of fieldtune.json."""
        data: dict[str, Any] = {
            "format_version": self.format_version,
            "base_sha256": self.base_sha256,
            "task": self.task,
            "labels": list(self.labels),
        }
        if self.training is not None:
            data["training"] = dict(self.training)
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """One adapter as PEFT stores it.

    Attributes:
        config: adapter_config.json as it is, unknown keys and their order included.
        tensors: adapter_model.safetensors.
        card: fieldtune.json, if there is one.
        where: what messages call the adapter: its directory.
    """

    config: Mapping[str, Any]
    tensors: TensorFile
    card: AdapterCard | None
    where: str


def adapter_labels(adapter: Adapter, manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the classes: the adapter's own if its card has them, else the bundle's."""
    return (adapter.card.labels if adapter.card else ()) or manifest.task.labels


PREFIX = "base_model.model."
"""What PEFT puts before a module's path in the keys of adapter_model.safetensors."""


def adapted_modules(manifest: Manifest) -> tuple[str, ...]:
    """Return the paths of the modules that the method is applied to, in the layout's order."""
    return tuple(dict.fromkeys(p.module for p in manifest.layout.parameters if p.replaces is None))


def same_parameter(key: str) -> str:
    """Return the key that all copies of one parameter in a file share; most have no copy, and it is their own.

    With ``bias="all"`` PEFT 0.21 writes a saved module's bias under ``….bias`` and ``….modules_to_save.bias``, and one
    that lies deeper in the module (in a head of several layers) under ``….modules_to_save.default.1.bias``.
    """
    return re.sub(r"\.modules_to_save\.(default\.)?", ".", key)
