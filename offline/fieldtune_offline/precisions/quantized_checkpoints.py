"""Checkpoints that are quantized already: bitsandbytes' NF4 is taken as it is, other schemes are refused by name.

transformers would load them with the library that made them, as layers of a kind of their own. Here a model is loaded
with matrices that take no memory, and its layers hold the packed ones afterwards.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.precisions.holding import Matrix, matrix_layers
from fieldtune_offline.precisions.nf4 import Nf4
from fieldtune_offline.precisions.nf4_codec import read_bitsandbytes
from fieldtune_offline.precisions.table import precision_of

_OURS = "bitsandbytes"
_STATE = ".quant_state."
_TITLES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes_8bit": "bitsandbytes in 8 bits (LLM.int8())",
    "bitsandbytes_fp4": "bitsandbytes as FP4",
    "quanto": "Quanto",
    "hqq": "HQQ",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "torchao": "torchao",
    "mxfp4": "MXFP4",
    "quark": "AMD Quark",
}


def quantized_recipe(folder: Path) -> str | None:
    """Return the recipe of the precision that a checkpoint's matrices are packed in; None where they are not.

    Raises:
        UnsupportedModel: they are, by a scheme that is not supported.
    """
    settings = _settings(folder)
    if not settings:
        return None
    scheme = str(settings.get("quant_method") or "").lower() or _scheme_of_flags(settings)
    if scheme == _OURS:
        scheme = _scheme_of_flags(settings)
    if scheme == _OURS:
        return Nf4(double=bool(settings.get("bnb_4bit_use_double_quant"))).recipe
    title = _TITLES.get(scheme, scheme or "a scheme without a name")
    raise UnsupportedModel(
        f"{folder}: its weights are quantized: {title} (quantization_config in config.json), which is not read; take "
        "the checkpoint that it was made from, and let --base int4, nf4 or int8 pack it"
    )


def read_quantized(folder: Path) -> tuple[dict[str, torch.Tensor], list[Matrix]]:
    """Return the tensors of a checkpoint, mapped, and the matrices that it has packed.

    In place of a packed matrix is a tensor of its shape without memory; ``places_of`` finds it again in a model.

    Raises:
        UnsupportedModel: files that cannot be read, or a matrix that is packed otherwise than it says.
    """
    from safetensors import SafetensorError, safe_open

    stored: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as held:
                stored.update({name: held.get_tensor(name) for name in held.keys()})  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise UnsupportedModel(f"{path}: cannot be read: {error}; copy the checkpoint again") from error
    names = sorted({name.partition(_STATE)[0] for name in stored if _STATE in name})
    if not names:
        raise UnsupportedModel(
            f"{folder}: config.json says that bitsandbytes has quantized it, and no safetensors file in it has a "
            "packed matrix; save it again with save_pretrained"
        )
    beside = {name for name in stored if any(name.startswith(f"{packed}.") for packed in names)}
    state = {name: tensor for name, tensor in stored.items() if name not in beside}
    matrices: list[Matrix] = []
    for name in names:
        parts, (rows, columns) = read_bitsandbytes(stored, name)
        precision = Nf4(double=len(parts) > 2)
        # The number says which it is, wherever transformers puts it.
        state[name] = torch.tensor(float(len(matrices))).expand(rows, columns)
        matrices.append(Matrix(precision_of(precision.recipe), parts, rows, columns))
    return state, matrices


def places_of(matrices: Iterable[Matrix], model: nn.Module) -> Mapping[str, Matrix]:
    """Return layers' names → the packed matrices that they have in a model that was loaded with ``read_quantized``.

    Raises:
        UnsupportedModel: one is in no layer, or in one of another shape.
    """
    by_number = dict(enumerate(matrices))
    found: dict[str, Matrix] = {}
    for name, layer in matrix_layers(model):
        weight = layer.weight.detach()
        if isinstance(layer, nn.Embedding) or any(weight.stride()):
            continue
        found[name] = by_number[int(weight.reshape(-1)[0])]
    lost = len(by_number) - len({id(matrix) for matrix in found.values()})
    if lost:
        raise UnsupportedModel(f"{lost} of the checkpoint's {len(by_number)} packed matrices are in no linear layer")
    return found


def _settings(folder: Path) -> Mapping[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = config.get("quantization_config") or config.get("compression_config")
    except (OSError, ValueError, AttributeError):
        return None  # transformers says what is wrong with it
    return settings if isinstance(settings, dict) else None


def _scheme_of_flags(settings: Mapping[str, Any]) -> str:
    """Return what bitsandbytes has done; older files name no method."""
    if settings.get("load_in_8bit"):
        return "bitsandbytes_8bit"
    if not settings.get("load_in_4bit"):
        return ""
    return _OURS if settings.get("bnb_4bit_quant_type", "fp4") == "nf4" else "bitsandbytes_fp4"
