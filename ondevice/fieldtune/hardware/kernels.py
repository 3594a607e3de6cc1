"""What a CPU does with products of integers: how fast beside float32's, and whether sums are exact.

ONNX Runtime picks its kernels when it is loaded (``mlas/lib/platform.cpp`` in its sources). For uint8 activations and
int8 weights they are:

1. x86-64 with VNNI: sums of four products in 32 bits.
2. x86-64 with AVX2 or AVX-512, without VNNI: sums of two products in 16 bits, which saturate. With the session's entry
   ``session.x64quantprecision`` ONNX Runtime makes int8 weights uint8, whose kernels are exact and slower
   (``avx2_weight_s8_to_u8.cc``, pull request 12088): constant ones alone, so that it changes nothing of graphs that
   train, and on CPUs with VNNI, too, which lose by it. So no session of ours sets it; ``fieldtune check`` says what to
   expect.
3. aarch64 with dot products or i8mm: in 32 bits.
4. aarch64 without: in 32 bits, by widening each byte; exact.

Rates are of whole products beside float32's on the same core, a Zen 4 with ONNX Runtime 1.32.0, as
``benchmarks/packed_products.py`` has them; for the second a changed copy of the library did not see its VNNI and
AVX-512. No Arm core was measured.
"""

import dataclasses

from fieldtune.hardware.specs import CpuSpec

_VNNI = ("avx512_vnni", "avx_vnni")
_SATURATING = ("avx2", "avx512f")
_DOT_PRODUCTS = ("asimddp", "i8mm")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IntegerKernels:
    """What a CPU does with products of integers.

    Attributes:
        fast: whether it has instructions for them; None where its features are not stated.
        exact: whether sums are exact; None where that is not known.
        rate: of multiply-accumulates, 1 for float32's; None where it was not measured.
        why: in words.
    """

    fast: bool | None
    exact: bool | None
    rate: float | None
    why: str


def integer_kernels(cpu: CpuSpec) -> IntegerKernels:
    """Return what a CPU does with products of uint8 activations and int8 weights."""
    present = [name for name in (*_VNNI, *_DOT_PRODUCTS) if name in cpu.features]
    if present:
        rate = 3.4 if present[0] in _VNNI else None
        return IntegerKernels(fast=True, exact=True, rate=rate, why=f"has {', '.join(present)}")
    if any(name in cpu.features for name in _SATURATING):
        return IntegerKernels(fast=False, exact=False, rate=1.8, why=f"has neither {' nor '.join(_VNNI)}")
    if cpu.architecture == "aarch64" and cpu.features:
        return IntegerKernels(fast=False, exact=True, rate=None, why=f"has neither {' nor '.join(_DOT_PRODUCTS)}")
    return IntegerKernels(fast=None, exact=None, rate=None, why="has no features that are stated")


def kernel_advice(kernels: IntegerKernels) -> str:
    """Return what to know of a CPU's products of integers before they are relied on; "" if there is nothing."""
    if kernels.fast:
        return ""
    told = f"products of integers: the CPU {kernels.why}"
    if kernels.fast is None:
        return f"{told}, and whether they are faster than those of float32 is not known"
    if kernels.exact:
        return f"{told}, and has no fast kernels for them; what they take there was not measured"
    return (
        f"{told}, and has no fast kernels for them: measured with AVX2, a training step took 0.85 of float32's time "
        "(with VNNI 0.6), and sums that saturate moved its gradient more than rounding to int8 does"
    )
