"""Serving: one session of infer.onnx, adapters of any rank swapped per call, texts and images into classes."""

import dataclasses
import threading
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.adapters.adapter import Adapter, adapter_labels
from fieldtune.adapters.arrays import inference_inputs
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.layout import FloatArray
from fieldtune.bundle.manifest import IGNORE_INDEX, SUFFIX_GRAPHS, GraphSpec
from fieldtune.bundle.opening import Bundle
from fieldtune.compilation.prefix import Prefix, open_prefix
from fieldtune.data.batches import batch_of, plan_evaluation
from fieldtune.data.examples import (
    IMAGE_CLASSIFICATION,
    TEXT_CLASSIFICATION,
    ClassificationExample,
    EncodedImage,
    EncodedSet,
)
from fieldtune.data.images import load_images
from fieldtune.data.limits import batch_limit, length_limit
from fieldtune.data.tokenizing import encode_examples, load_tokenizer
from fieldtune.errors import InvalidBundle, OutputError
from fieldtune.hardware import HardwareProfile
from fieldtune.hardware.installed import features
from fieldtune.hardware.on_missing import OnMissing
from fieldtune.placement.opening import open_graph
from fieldtune.placement.report import PlacementReport
from fieldtune.placement.targets import choose_for
from fieldtune.runtime.native_adapters import native_adapter, run_options
from fieldtune.runtime.providers import cpu_choice
from fieldtune.runtime.session import open_session, run_session
from fieldtune.serving.sampling import softmax

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """The class of a text or an image.

    Attributes:
        label: name of the likeliest class.
        probabilities: name → probability of every class, in the order of the logits; their sum is 1.
        truncated: whether the text was longer than the model takes, and its end did not count.
    """

    label: str
    probabilities: Mapping[str, float]
    truncated: bool

    @property
    def probability(self) -> float:
        """The probability of the likeliest class."""
        return self.probabilities[self.label]


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
        native_adapters: bool | None = None,
    ) -> None:
        runtime = features()
        self.bundle = bundle
        self.profile = profile
        self.choice = choose_for(bundle, profile, provider, on_missing)
        self._native = runtime.has_lora_adapter if native_adapters is None else native_adapters
        self._prefix: Prefix | None = None
        self._placement: PlacementReport | None = None
        if provider is None and profile.accelerator is not None:
            self._prefix = open_prefix(bundle, profile, on_missing=on_missing)
            self._session = open_session(bundle.graph_path(SUFFIX_GRAPHS["infer"]), cpu_choice(profile))
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

    def classify(
        self,
        texts: Sequence[str],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
    ) -> list[Classification]:
        """Classify texts, in their order.

        Args:
            texts: the texts.
            adapter: as in ``run``; its head and its labels count.
            batch_size: texts in a run; the static graph's or the profile's if None.
            max_length: tokens of a text that count; what graph, profile and model take if None.
            strict: refuse texts that are longer instead of cutting them.

        Raises:
            InvalidBundle: the bundle is for another task.
            InvalidData: texts without a token, or too long where that is refused; every one is named, up to 20.
            ValueError: a batch size or maximum length that the bundle's static graphs do not take.
        """
        self.check_task(TEXT_CLASSIFICATION)
        encoded, truncated = self._encode(texts, max_length, strict=strict)
        return self._classes(encoded, adapter, batch_size, truncated)

    def classify_images(
        self,
        images: Sequence[str | Path | npt.NDArray[np.uint8]],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
    ) -> list[Classification]:
        """Classify images, in their order.

        Args:
            images: files, or arrays of uint8, shape (height, width) or (height, width, 1 or 3).
            adapter: as in ``run``; its head and its labels count.
            batch_size: images in a run; the static graph's or the profile's if None.

        Raises:
            InvalidBundle: the bundle is for another task.
            InvalidData: images that cannot be used; every one is named, up to 20.
            FieldtuneError: they have to be read or resized, and Pillow is not installed.
            ValueError: a batch size that the bundle's static graphs do not take.
        """
        self.check_task(IMAGE_CLASSIFICATION)
        sources: list[tuple[str, Path | npt.NDArray[np.uint8]]] = [
            (f"image {number}", image) if isinstance(image, np.ndarray) else ("", Path(image))
            for number, image in enumerate(images, start=1)
        ]
        unknown = np.array(IGNORE_INDEX, np.int64)
        examples = tuple(
            EncodedImage(pixels=pixels, labels=unknown) for pixels in load_images(sources, self.bundle.image)
        )
        return self._classes(EncodedSet(examples=examples, truncated=0, dropped=0), adapter, batch_size)

    def check_task(self, name: str) -> None:
        """Check what the bundle is for.

        Raises:
            InvalidBundle: another task.
        """
        found = self.bundle.manifest.task.name
        if found != name:
            raise InvalidBundle(f"{self.bundle.root}: is a bundle for {found}; {name} was asked of it")

    def _classes(
        self,
        encoded: EncodedSet,
        adapter: LoadedAdapter | None,
        batch_size: int | None,
        truncated: Collection[int] = (),
    ) -> list[Classification]:
        inputs, manifest = self.graph.inputs, self.bundle.manifest
        labels = manifest.task.labels if adapter is None else adapter.labels
        logits = np.empty((len(encoded.examples), len(labels)), np.float32)
        for indices in plan_evaluation(encoded.lengths, batch_limit(batch_size, self.profile, inputs)):
            arrays = batch_of(encoded.examples, indices, manifest, inputs)
            # A static graph's batch may end in padding rows.
            logits[indices] = self.run(arrays, adapter, outputs=["logits"])["logits"][: len(indices)]
        return [
            Classification(
                label=labels[int(row.argmax())],
                probabilities=dict(zip(labels, row.tolist(), strict=True)),
                truncated=index in truncated,
            )
            for index, row in enumerate(softmax(logits))
        ]

    def _encode(self, texts: Sequence[str], max_length: int | None, *, strict: bool) -> tuple[EncodedSet, set[int]]:
        """Return the texts as token ids, and the indices of those that were cut."""
        text, task = self.bundle.text, self.bundle.manifest.task
        examples = [
            ClassificationExample(text=text, where=f"text {number}") for number, text in enumerate(texts, start=1)
        ]
        limit = length_limit(max_length, self.profile, self.graph.inputs, text)
        tokenizer = self.tokenizer
        # Cutting is a setting of the tokenizer for as long as texts are encoded.
        with self._lock:
            encoded = encode_examples(examples, tokenizer, text, task, max_length=limit, strict=strict)
            truncated: set[int] = set()
            if encoded.truncated:
                # The set counts them; only those that fill the limit can be among them.
                for index in np.flatnonzero(encoded.lengths == limit).tolist():
                    one = [examples[index]]
                    again = encode_examples(one, tokenizer, text, task, max_length=limit)
                    if again.truncated:
                        truncated.add(index)
        return encoded, truncated
