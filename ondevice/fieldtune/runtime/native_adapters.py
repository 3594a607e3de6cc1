"""Adapters in ONNX Runtime's own form: LoraAdapter, made active for single runs (ONNX Runtime 1.20 and later).

The base stays as it is, the runtime holds the adapter's tensors, memory-mapped, and appends them to what a run is fed.
"""

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fieldtune.bundle import FloatArray
from fieldtune.errors import OutputError
from fieldtune.hardware import load_runtime

if TYPE_CHECKING:
    from onnxruntime import LoraAdapter, RunOptions

_FORMAT_VERSION = 1
"""ONNX Runtime stores these two numbers and leaves their meaning to the program; nobody else reads this file."""


def native_adapter(inputs: Mapping[str, FloatArray]) -> "LoraAdapter":
    """Return ONNX Runtime's form of an adapter.

    Args:
        inputs: as ``adapters.arrays.inference_inputs`` returns them; heads and biases are welcome, too.

    Raises:
        OutputError: the folder of temporary files cannot take it.
        ProviderUnavailable: there is no ONNX Runtime.
    """
    runtime = load_runtime()
    form = runtime.AdapterFormat()
    form.set_adapter_version(_FORMAT_VERSION)
    form.set_model_version(_FORMAT_VERSION)
    # The values are borrowed, not copied, so the dictionary has to outlive the export.
    values = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
    form.set_parameters(values)
    adapter = runtime.LoraAdapter()
    try:
        # Files of this kind are made with mode 0600; the mapping outlives the file's name.
        with tempfile.NamedTemporaryFile(prefix="fieldtune-", suffix=".onnx_adapter") as file:
            form.export_adapter(file.name)
            adapter.Load(file.name)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: the adapter cannot be handed to ONNX Runtime through a temporary file "
            f"({str(error).strip()}); free some space there or set TMPDIR to another folder"
        ) from error
    return adapter


def run_options(adapter: "LoraAdapter") -> "RunOptions":
    """Return options that make an adapter active for one run.

    Each run has options of its own: several threads may run one session with different adapters.
    """
    options: RunOptions = load_runtime().RunOptions()
    options.add_active_adapter(adapter)
    return options
