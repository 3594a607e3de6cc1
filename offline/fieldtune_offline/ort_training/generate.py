"""Run in the environment of the training build: forward graph in, the official artifacts and their answers out.

    python generate.py REQUEST.json

The request names the files; the answer is RESULT.json beside it. Nothing of this project is installed there, so this
file imports none of it but ``fieldtune.training.backends.training_api``, by its path.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ADAM_MODE_TORCH = 0
"""AdamWOptimizer's order of operations that is torch.optim.AdamW's: decay before the step, epsilon after the bias
correction. The tool's own block writes 1, that of transformers' former AdamW."""
EPSILON = 1e-8
FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint", "nominal_checkpoint")


def _generate(request: dict[str, Any], import_training: Any) -> None:
    """Write the five files into ``request["out"]``."""
    import onnx

    artifacts, onnxblock = import_training("artifacts"), import_training("onnxblock")

    base: Any = onnxblock.optim.AdamW

    class AdamW(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(eps=EPSILON, weight_decay=0.0)
            make = self._adamw._build_optimizer_node
            self._adamw._build_optimizer_node = lambda inputs, output, name, attributes: make(
                inputs, output, name, {**attributes, "adam_mode": ADAM_MODE_TORCH}
            )

    model = onnx.load(request["forward"])
    out = Path(request["out"])
    artifacts.generate_artifacts(
        model,
        requires_grad=request["trained"],
        frozen_params=request["frozen"],
        optimizer=AdamW(),
        artifact_directory=str(out),
        nominal_checkpoint=True,
    )
    for name in FILES[:3]:
        # The onnx package writes its own newest IR version, which this runtime may be too old for.
        written = onnx.load(str(out / name))
        if name == FILES[0]:
            _leave_padding(written, **request["padding"])
        written.ir_version = model.ir_version
        onnx.save(written, str(out / name))


def _leave_padding(training: Any, index: int, axes: dict[str, int]) -> None:
    """Let no gradient reach one token's row or column of some parameters, as torch's padding_idx does.

    Args:
        training: the training model, which is changed.
        index: the token.
        axes: parameter → its axis of tokens.
    """
    import onnx

    sizes = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim] for value in training.graph.input
    }
    for name, axis in axes.items():
        gradient = f"{name}_grad"
        place, accumulator = next(
            (number, node)
            for number, node in enumerate(training.graph.node)
            if node.op_type == "InPlaceAccumulatorV2" and gradient in node.input
        )
        mask = np.ones([size if each == axis else 1 for each, size in enumerate(sizes[name])], np.float32)
        mask[tuple(index if each == axis else 0 for each in range(mask.ndim))] = 0
        training.graph.initializer.append(onnx.numpy_helper.from_array(mask, f"{name}.padding"))
        masked = onnx.helper.make_node("Mul", [gradient, f"{name}.padding"], [f"{gradient}.masked"])
        accumulator.input[list(accumulator.input).index(gradient)] = f"{gradient}.masked"
        training.graph.node.insert(place, masked)


def _answer(request: dict[str, Any], import_training: Any) -> None:
    """Load the artifacts as a device does, and write loss and gradients of each probe to ``request["answers"]``."""
    import onnxruntime

    api = import_training("api")
    out = Path(request["out"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    state = api.CheckpointState.load_checkpoint(str(out / "checkpoint"))
    module = api.Module(str(out / "training_model.onnx"), state, str(out / "eval_model.onnx"), session_options=options)
    api.Optimizer(str(out / "optimizer_model.onnx"), module)
    with np.load(request["probes"]) as arrays:
        probes = dict(arrays)
    for name in request["trained"]:
        state.parameters[name] = probes[f"theta/{name}"]
    answers: dict[str, Any] = {}
    for number in range(request["count"]):
        batch = [probes[f"{number}/{name}"] for name in module.input_names()]
        module.train()
        answers[f"{number}/loss"] = module(*batch)[0]
        for name in request["trained"]:
            answers[f"{number}/{name}"] = state.parameters[name].grad.copy()
        module.lazy_reset_grad()
        module.eval()
        answers[f"{number}/eval_loss"] = module(*batch)[0]
    np.savez(request["answers"], **answers)


def main(path: Path) -> int:
    """Do what a request says; write what came of it."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    request = json.loads(path.read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("training_api", request["training_api"])
    assert spec is not None
    assert spec.loader is not None
    training_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(training_api)
    result = {"runtime": onnxruntime.__version__}
    try:
        _generate(request, training_api.import_training)
        _answer(request, training_api.import_training)
    except Exception as error:  # noqa: BLE001 (whatever it is, the dev box says it)
        result["error"] = f"{type(error).__name__}: {error}"
    (path.parent / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
