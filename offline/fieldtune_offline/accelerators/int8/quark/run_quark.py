"""Run in the environment of AMD Quark: float32 graph and calibration batches in, INT8 graph out.

    python run_quark.py REQUEST.json

The request names the files; the answer is result.json beside it. Nothing of this project is installed there.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def _quantize(request: dict[str, Any]) -> None:
    """Write the quantized graph to ``request["out"]``."""
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import CalibMethod, ModelQuantizer, QConfig, QLayerConfig, ScaleType, UInt8Spec, XInt8Spec

    base: Any = CalibrationDataReader

    class Batches(base):  # type: ignore[misc]
        def __init__(self) -> None:
            with np.load(request["batches"]) as arrays:
                held = dict(arrays)
            names = [key.removeprefix("0/") for key in held if key.startswith("0/")]
            self.batches = [{name: held[f"{index}/{name}"] for name in names} for index in range(request["count"])]
            self.rewind()

        def get_next(self) -> Any:
            return next(self.left, None)

        def rewind(self) -> None:
            self.left = iter(self.batches)

    activation = XInt8Spec()
    if request["activation_type"] == "uint8":
        # XInt8 with an offset of 128: the same powers of two.
        activation = UInt8Spec(symmetric=True, scale_type=ScaleType.PowerOf2, calibration_method=CalibMethod.MinMSE)
    config = QConfig(
        global_config=QLayerConfig(activation=activation, weight=XInt8Spec()),
        exclude=request["left_out"],
        # As the preset XINT8 has it; the graph is simplified already, and stays without operators that imitate a DPU.
        extra_options={"ForceQuantizeNoInputCheck": True, "SimulateDPU": False, "PrintSummary": False},
        optimize_model=False,
    )
    ModelQuantizer(config).quantize_model(request["model"], request["out"], Batches())


def main(path: Path) -> int:
    """Do what a request says; write what came of it."""
    result = {"quark": importlib.metadata.version("amd-quark")}
    try:
        _quantize(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # noqa: BLE001 (whatever it is, the dev box says it)
        result["error"] = f"{type(error).__name__}: {error}"
    path.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
