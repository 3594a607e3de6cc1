"""Serving: one session of infer.onnx, adapters of any rank swapped per call, texts and images into classes."""

import dataclasses
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.adapters import Adapter, adapter_labels, inference_inputs, read_adapter
from fieldtune.bundle import SUFFIX_GRAPHS, Bundle, FloatArray, GraphSpec
from fieldtune.compilation import Prefix, open_prefix
from fieldtune.data import load_tokenizer
from fieldtune.errors import OutputError
from fieldtune.hardware import HardwareProfile, OnMissing, features
from fieldtune.placement import PlacementReport, choose_for, open_graph
from fieldtune.runtime import ProviderChoice, cpu_choice, native_adapter, run_options, run_session

if TYPE_CHECKING:
    import tokenizers
    from onnxruntime import LoraAdapter

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter that was checked against a bundle and prepared for it; as many as memory holds can wait at once.

    Attributes:
        name: what people call it.
        labels: names of the classes in the order of the logits: its own if it has some, else the bundle's.
        base_sha256: of the base that it was checked against.
        feeds: what is fed by name, float32; empty where ``native`` holds it.
        native: ONNX Runtime's form of it, where the runtime has one.
    """

    name: str
    labels: tuple[str, ...]
    base_sha256: str
    feeds: Mapping[str, FloatArray]
    native: "LoraAdapter | None"


class Runner:
    """A bundle, ready to answer: infer.onnx is opened once, whatever adapters come and go.

    On a profile with an accelerator it is the frozen prefix on that, and suffix_infer.onnx on the CPU. An adapter goes
    into the suffix, so a new one needs no compile there, either. Each is padded with zeros to the bundle's rank, so
    that versions of any lower rank have one shape.

    Nothing in it changes after construction but the tokenizer, which has a lock: threads can share it.

    Args:
        bundle: the bundle.
        profile: of the device.
        provider: ONNX Runtime's name of a provider to use whatever the profile says.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.
        choice: the provider, where it has been chosen already; the two above are of no meaning then.
        native_adapters: whether adapters go by ONNX Runtime's LoraAdapter, or by name as any other input; None is the
            former where the runtime has it. The results are the same, bit for bit. So is the time, as measured on the
            CPU; a provider with a memory of its own can keep a native adapter there.

    Raises:
        InvalidBundle: the bundle has no infer.onnx, or ONNX Runtime cannot load it; or it has no prefix for the
            profile's accelerator.
        ProviderUnavailable: there is no ONNX Runtime, or not the provider.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: HardwareProfile,
        *,
        provider: str | None = None,
        on_missing: OnMissing | None = None,
        choice: ProviderChoice | None = None,
        native_adapters: bool | None = None,
    ) -> None:
        runtime = features()
        self.bundle = bundle
        self.profile = profile
        self.choice = choice or choose_for(bundle, profile, provider, on_missing)
        self._native = runtime.has_lora_adapter if native_adapters is None else native_adapters
        self._prefix: Prefix | None = None
        self._placement: PlacementReport | None = None
        if self.choice.behind_prefix:
            self._prefix = open_prefix(bundle, profile, self.choice)
            self._session, _ = open_graph(bundle, SUFFIX_GRAPHS["infer"], cpu_choice(profile))
        else:
            self._session, self._placement = open_graph(bundle, "infer", self.choice)
        self._tokenizer: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()

    @property
    def graph(self) -> GraphSpec:
        """What goes into infer.onnx, or into prefix and suffix, and comes out."""
        return self.bundle.manifest.graphs["infer"]

    @property
    def placement(self) -> PlacementReport | None:
        """Where the frozen prefix runs, or the whole graph if another provider runs that; None on the CPU alone."""
        return self._placement if self._prefix is None else self._prefix.report

    @property
    def tokenizer(self) -> "tokenizers.Tokenizer":
        """The bundle's tokenizer, loaded on first use.

        Raises:
            CorruptFile: the installed tokenizers package cannot read it.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.bundle.tokenizer_path)
            return self._tokenizer

    def load_adapter(self, adapter: str | Path | Adapter, name: str | None = None) -> LoadedAdapter:
        """Check an adapter and prepare it, once for all runs with it; the base is not touched.

        Args:
            adapter: a PEFT directory, or what ``read_adapter`` returned.
            name: what to call it; its directory if None.

        Raises:
            AdapterMismatch: it does not fit the bundle; every mismatch is listed.
            InvalidAdapter: it is no adapter of a method that is known, or has settings that are not supported.
        """
        read = adapter if isinstance(adapter, Adapter) else read_adapter(adapter)
        manifest = self.bundle.manifest
        feeds = inference_inputs(read, self.bundle, least_rank=0 if self._prefix is None else manifest.layout.rank)
        native = None
        if self._native and feeds:
            try:
                native = native_adapter(feeds)
            except OutputError as error:
                warnings.warn(f"{error}; until then it is fed by name, with the same results", stacklevel=2)
        return LoadedAdapter(
            name=read.where if name is None else name,
            labels=adapter_labels(read, manifest),
            base_sha256=manifest.base.sha256,
            feeds={} if native is not None else feeds,
            native=native,
        )

    def behind_prefix(self, inputs: Mapping[str, npt.ArrayLike]) -> Mapping[str, npt.ArrayLike]:
        """Run the frozen prefix on arrays, once for all adapters that are to answer them.

        Args:
            inputs: an array for each of ``graph.inputs``.

        Returns:
            What ``run`` takes in their place: the boundary and what else goes into the suffix; the inputs themselves
            where there is no prefix, or where they are that already.

        Raises:
            FieldtuneError: ONNX Runtime fails.
            ValueError: an input is missing.
        """
        if self._prefix is None:
            return inputs
        wanted = [spec.name for spec in self.bundle.manifest.graphs[SUFFIX_GRAPHS["infer"]].inputs]
        if all(name in inputs for name in wanted):
            return inputs
        boundary = self._prefix.run({name: np.asarray(value) for name, value in inputs.items()})
        return {name: value for name, value in {**inputs, **boundary}.items() if name in wanted}

    def run(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        adapter: LoadedAdapter | None = None,
        *,
        outputs: Sequence[str] | None = None,
    ) -> Arrays:
        """Run infer.onnx, or prefix and suffix, on arrays.

        Args:
            inputs: an array for each of ``graph.inputs``; or what ``behind_prefix`` made of them.
            adapter: of this bundle. What it leaves out keeps the graph's default, and so does everything if None: no
                update, the initial head.
            outputs: names of those to return; all if None.

        Returns:
            Output name → array.

        Raises:
            FieldtuneError: ONNX Runtime fails.
            ValueError: an input is missing, or the adapter was loaded for another base model.
        """
        names = [spec.name for spec in self.graph.outputs] if outputs is None else list(outputs)
        if adapter is not None and adapter.base_sha256 != self.bundle.manifest.base.sha256:
            raise ValueError(f"the adapter {adapter.name} was loaded for another base model")
        feeds = dict(self.behind_prefix(inputs))
        options = None
        if adapter is not None:
            feeds |= adapter.feeds
            if adapter.native is not None:
                options = run_options(adapter.native)
        return dict(zip(names, run_session(self._session, names, feeds, options), strict=True))
