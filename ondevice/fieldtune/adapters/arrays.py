"""An adapter as arrays: theta for the gradient graph, named inputs for infer.onnx, and theta back into an adapter."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from fieldtune.adapters.adapter import Adapter, AdapterCard, lora_modules, same_parameter
from fieldtune.adapters.fit import check_fits, scales
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.layout import FloatArray, ParameterSpec
from fieldtune.bundle.manifest import Manifest

_LORA_BIAS = ".lora_B.bias"


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


def inference_inputs(adapter: Adapter, manifest: Manifest, *, least_rank: int = 0) -> dict[str, FloatArray]:
    """Return what infer.onnx is fed for this adapter, by input name (the PEFT key), float32 and contiguous.

    A goes in as (in_features, rank) and B as (rank, out_features), an embedding's pair as (num_embeddings, rank) and
    (rank, embedding_dim): PEFT's tensors transposed. A convolution's pair goes in as PEFT has it.
    alpha / rank is folded into B, and into B's bias if it has one.
    The graph has one symbolic rank, so every pair is zero-padded to the adapter's largest: zeros add nothing. Padded to
    the bundle's, adapters of any lower rank have equal shapes, and one takes another's place without any new buffer.
    Heads and biases go in as they are. A base bias that the adapter leaves alone is not in the result: the graph's
    default stands.

    Args:
        adapter: the adapter.
        manifest: of the bundle.
        least_rank: to pad every pair to, unless the adapter has a larger rank, which it keeps.

    Raises:
        AdapterMismatch: if the adapter does not fit the bundle; every mismatch is listed.
        InvalidAdapter: if a setting of adapter_config.json has another type.
    """
    check_fits(adapter, manifest, for_training=False)
    scale = scales(adapter, lora_modules(manifest))
    stored = adapter.tensors.tensors
    ranks = [stored[p.key].shape[p.rank_axis] for p in manifest.layout.parameters if p.rank_axis is not None]
    rank = max([*ranks, least_rank])
    inputs: dict[str, FloatArray] = {}
    for p in manifest.layout.parameters:
        if p.key not in stored:
            # Without lora_bias there is nothing to add after B; any other bias is the base's.
            if p.key.endswith(_LORA_BIAS):
                inputs[p.key] = np.zeros(p.shape, np.float32)
            continue
        values = stored[p.key].float32()
        if is_scaled(p):
            values *= np.float32(scale[p.module])
        if p.rank_axis is not None:
            widths = [(0, 0)] * values.ndim
            widths[p.rank_axis] = (0, rank - values.shape[p.rank_axis])
            values = np.pad(values, widths)
        if p.is_matrix:
            values = np.ascontiguousarray(values.T)
        inputs[p.key] = values
    return inputs


def is_scaled(parameter: ParameterSpec) -> bool:
    """Whether alpha / rank applies to a parameter where it is fed: B, and the bias after it."""
    return parameter.role in ("lora_b", "lora_embedding_b") or parameter.key.endswith(_LORA_BIAS)


def _stored(key: str, values: FloatArray, dtype: str) -> StoredTensor:
    try:
        return StoredTensor.from_float32(values, dtype)
    except OverflowError as error:
        warnings.warn(f"{key}: {error}; it is stored as F32", stacklevel=3)
        return StoredTensor.from_float32(values, "F32")
