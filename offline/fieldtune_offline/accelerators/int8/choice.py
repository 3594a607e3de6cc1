"""Which quantizer: ONNX Runtime's, with our positions and weights, or AMD Quark."""

from typing import Literal, TypeAlias

from fieldtune_offline.accelerators.int8.quantizing import Quantize, quantize
from fieldtune_offline.progress import Report

Quantizer: TypeAlias = Literal["ort", "quark"]


def choose_quantizer(name: Quantizer, report: Report) -> Quantize:
    """Return the function that quantizes; what it needs is installed afterwards.

    Args:
        name: which one.
        report: told before the minutes of an installation.

    Raises:
        ExportError: AMD Quark cannot be installed.
    """
    if name == "ort":
        return quantize
    from fieldtune_offline.accelerators.int8.quark.quantizing import quantize_with_quark, quark_python

    quark_python(report)
    return quantize_with_quark
