"""An adapter as arrays: theta for the gradient graph, named inputs for infer.onnx, and theta back into an adapter."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from fieldtune.adapters.adapter import Adapter, AdapterCard, same_parameter
from fieldtune.adapters.fit import check_fits
from fieldtune.adapters.methods import method_named
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle import Bundle, FloatArray, Manifest


def to_theta(adapter: Adapter, manifest: Manifest) -> FloatArray:
    """Return the adapter as theta: float32, shape ``(manifest.layout.size,)``.

    Raises:
        AdapterMismatch: if the bundle cannot train this adapter further; every mismatch is listed.
    """
    check_fits(adapter, manifest, for_training=True)
    stored = adapter.tensors.tensors
    return manifest.layout.pack({p.key: stored[p.key].float32() for p in manifest.layout.parameters})


def from_theta(
    theta: FloatArray,
    manifest: Manifest,
    like: Adapter,
    labels: tuple[str, ...],
    training: Mapping[str, Any] | None,
) -> Adapter:
    """Return the adapter that theta holds, in the form of the one it was trained from.

    Args:
        theta: float32, shape ``(manifest.layout.size,)``.
        manifest: of the bundle that trained it.
        like: gives the settings, the tensors' order and dtypes, the metadata, and the tensors that are not trained.
        labels: names of the classes in the order of the logits.
        training: how it was trained, for the card.

    Raises:
        ValueError: if theta has another size, or ``like`` lacks a tensor of the layout.
    """
    values = manifest.layout.views(theta)
    lacking = [key for key in values if key not in like.tensors.tensors]
    if lacking:
        raise ValueError(f"{like.where} has no tensor {lacking[0]!r}")
    trained = {same_parameter(key): value for key, value in values.items()}
    tensors: dict[str, StoredTensor] = {}
    for key, old in like.tensors.tensors.items():
        value = trained.get(same_parameter(key))
        tensors[key] = old if value is None else _stored(key, value, old.dtype)
    return Adapter(
        config={**like.config, "inference_mode": True},
        tensors=dataclasses.replace(like.tensors, tensors=tensors),
        card=AdapterCard(
            base_sha256=manifest.base.sha256, task=manifest.task.name, labels=tuple(labels), training=training
        ),
        where=like.where,
    )


def inference_inputs(adapter: Adapter, bundle: Bundle, *, least_rank: int = 0) -> dict[str, FloatArray]:
    """Return what infer.onnx is fed for this adapter, by input name, float32 and contiguous.

    What that is, the adapter's method says; for most by the facts of the bundle's layout. A matrix with a rank goes in
    transposed, (in_features, rank) or (rank, out_features), a convolution's pair as PEFT has it, and alpha / rank is
    folded in.
    The graph has one symbolic rank, so every pair is zero-padded to the adapter's largest: zeros add nothing. Padded to
    the bundle's, adapters of any lower rank have equal shapes, and one takes another's place without any new buffer.
    Heads and biases go in as they are. A base bias that the adapter leaves alone is not in the result: the graph's
    default stands.

    Args:
        adapter: the adapter.
        bundle: the bundle.
        least_rank: to pad every pair to, unless the adapter has a larger rank, which it keeps.

    Raises:
        AdapterMismatch: if the adapter does not fit the bundle; every mismatch is listed.
        InvalidAdapter: if a setting of adapter_config.json has another type.
        InvalidBundle: if the bundle's method is not known.
    """
    check_fits(adapter, bundle.manifest, for_training=False)
    return method_named(bundle.manifest.method, bundle.manifest.base.id).feeds(adapter, bundle, least_rank=least_rank)


def _stored(key: str, values: FloatArray, dtype: str) -> StoredTensor:
    try:
        return StoredTensor.from_float32(values, dtype)
    except OverflowError as error:
        warnings.warn(f"{key}: {error}; it is stored as F32", stacklevel=3)
        return StoredTensor.from_float32(values, "F32")
