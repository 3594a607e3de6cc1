"""What numbers a quantized prefix computes in: the terms that bundles and hardware profiles share."""

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["xint8"]
"""``xint8``: eight bits, symmetric, one scale a tensor, and every scale a power of two."""


ActivationType: TypeAlias = Literal["int8", "uint8"]
