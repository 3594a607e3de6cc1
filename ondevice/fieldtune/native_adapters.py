"""Adapters in ONNX Runtime's own form: LoraAdapter, made active for single runs (ONNX Runtime 1.20 and later).

The base stays as it is, the runtime holds the adapter's tensors, memory-mapped, and appends them to what a run is fed.
"""

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from fieldtune.errors import OutputError
from fieldtune.layout import FloatArray
from fieldtune.runtime import load_runtime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, LoraAdapter

_FORMAT_VERSION = 1
"""ONNX Runtime stores these two numbers and leaves their meaning to the program; nobody else reads this file."""


def native_adapter(inputs: Mapping[str, FloatArray]) -> "LoraAdapter":
    """Return ONNX Runtime's form of an adapter.

    Args:
        inputs: as ``adapter_inputs.inference_inputs`` returns them; heads and biases are welcome, too.

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


class AdaptedSession:
    """A session all of whose runs have one native adapter active; it holds nothing but references to the two.

    Args:
        session: an open one.
        adapter: as ``native_adapter`` returns it.
    """

    def __init__(self, session: "InferenceSession", adapter: "LoraAdapter") -> None:
        self._session = session
        self._adapter = adapter

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run as ``InferenceSession.run`` does, with the adapter."""
        from onnxruntime import RunOptions

        # Options of its own for each run: several threads may run one session with different adapters.
        options = RunOptions()
        options.add_active_adapter(self._adapter)
        found: list[npt.NDArray[Any]] = self._session.run(outputs, feeds, options)
        return found

    def get_modelmeta(self) -> Any:
        """Return the model's metadata, which messages name it by."""
        return self._session.get_modelmeta()
