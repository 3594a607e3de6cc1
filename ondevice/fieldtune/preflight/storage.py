"""What a bundle and what comes of it take on the device's disk."""

import dataclasses
import math

from fieldtune.activations import ENTRY_BYTES, record_form
from fieldtune.bundle import MANIFEST_NAME, Bundle
from fieldtune.preflight.workload import Part

_HEADER_BYTES = 8_000
"""Of a safetensors file, and of the settings and the card beside it."""
_STATE_VECTORS = 3
"""theta and AdamW's two means."""
_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StorageNeed:
    """Bytes on disk.

    Attributes:
        bundle_bytes: the bundle's files.
        adapter_bytes: one version of the adapter, without reports; 0 where nothing is trainable.
        optimizer_bytes: theta and the optimizer's state, as a checkpoint holds them; 0 where nothing is trainable.
        sample_bytes: the boundary activations of one example; 0 without a split.
        activation_bytes: those of all examples; None where their number is not told.
        compiled_bytes: the compiled prefix, taken to be as large as the prefix; 0 without an accelerator.
    """

    bundle_bytes: int
    adapter_bytes: int
    optimizer_bytes: int
    sample_bytes: int
    activation_bytes: int | None
    compiled_bytes: int


def storage_need(bundle: Bundle, prefix: Part | None, samples: int | None) -> StorageNeed:
    """Return what is needed on disk.

    Args:
        bundle: the bundle.
        prefix: the prefix graph that runs on the device, if one does.
        samples: how many examples the data has, where that is known.
    """
    manifest = bundle.manifest
    theta_bytes = _FLOAT_BYTES * manifest.layout.size
    header = _HEADER_BYTES if theta_bytes else 0
    sample = 0 if prefix is None else sample_bytes(bundle, prefix)
    return StorageNeed(
        bundle_bytes=sum(file.size_bytes for file in manifest.files.values())
        + (bundle.root / MANIFEST_NAME).stat().st_size,
        adapter_bytes=theta_bytes + header,
        optimizer_bytes=_STATE_VECTORS * theta_bytes + header,
        sample_bytes=sample,
        activation_bytes=None if samples is None else samples * sample,
        compiled_bytes=_graph_bytes(bundle, prefix) if prefix and prefix.on_accelerator else 0,
    )


def sample_bytes(bundle: Bundle, prefix: Part) -> int:
    """Return what the activation cache keeps of one example: a code or a float32 for each element, and its entry."""
    split = bundle.manifest.split
    if split is None:
        return 0
    codes = record_form(prefix.table, [spec.name for spec in split.boundary]).codes
    record = 0
    for spec in split.boundary:
        elements = math.prod(size for size in spec.shape[1:] if isinstance(size, int))
        record += elements * (1 if spec.name in codes else _FLOAT_BYTES)
    return ENTRY_BYTES + record


def _graph_bytes(bundle: Bundle, part: Part) -> int:
    spec = bundle.manifest.graphs[part.graph]
    weights = sum(part.table.values[name].constant_bytes or 0 for name in part.table.initializers)
    return max(weights, bundle.manifest.files[spec.path].size_bytes)
