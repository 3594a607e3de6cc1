"""bitsandbytes, the reference of NF4, as the tests call it."""

import importlib.util
import logging
import platform
import sys
from types import ModuleType

import pytest
import torch

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (pip install bitsandbytes), with which NF4 is compared",
)
# Its code for other processors rounds some scales otherwise, and torch makes its map with other last bits there.
bit_equal = pytest.mark.skipif(
    platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="bitsandbytes gives these bits on x86-64 processors with AVX2",
)


def bitsandbytes() -> ModuleType:
    """Import it without the kernel that it looks for on some processors: with `kernels` installed, on the network."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")  # warns that there is no such kernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kernels", None)
        patch.setattr(logger, "disabled", True)
        import bitsandbytes as module
        import bitsandbytes.functional
    return module


def pack(matrix: torch.Tensor, *, double: bool) -> tuple[torch.Tensor, ...]:
    """Return what it packs a matrix into, in our order."""
    codes, state = bitsandbytes().functional.quantize_4bit(
        matrix, blocksize=64, compress_statistics=double, quant_type="nf4"
    )
    nested = (state.state2.absmax, state.offset.reshape(1)) if double else ()
    return (codes.reshape(-1), state.absmax, *nested)


def unpack(matrix: torch.Tensor, *, double: bool) -> torch.Tensor:
    """Return what it makes of a packed matrix, which has an even number of values.

    As one row: where columns are a multiple of 16 and none of 64, it takes wrong scales on processors with AVX-512.
    """
    functional = bitsandbytes().functional
    row = matrix.reshape(1, -1)
    codes, state = functional.quantize_4bit(row, blocksize=64, compress_statistics=double, quant_type="nf4")
    return functional.dequantize_4bit(codes, state).reshape(matrix.shape)


def checkpoint(name: str, matrix: torch.Tensor, **settings: object) -> dict[str, torch.Tensor]:
    """Return the tensors that it writes for a weight."""
    codes, state = bitsandbytes().functional.quantize_4bit(matrix, **{"quant_type": "nf4", **settings})
    return {name: codes, **{f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}}
