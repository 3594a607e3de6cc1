"""What every task answers for on the dev box: its model, its graphs, its batches for parity and torch's own answers."""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldtune.bundle import ImageSpec, Manifest

Batch = Mapping[str, torch.Tensor]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
GRADIENT = "gradient"
"""The graph that trains; all others go forward only, with the adapter as inputs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Traceable:
    """A module and what it is traced with.

    Attributes:
        module: ``forward(**batch)`` returns a tuple of tensors.
        model_path: name of the attribute that holds the adapted model.
        batch: example tensors by the module's argument names; values may be nested tuples of tensors.
        inputs: name and axis names of each tensor of ``batch``, flattened.
        outputs: a name for each tensor that ``forward`` returns, and names for its axes.
        pads: what fills up an input where examples are shorter than their batch; 0 where nothing is said.
        varies: whether its sizes vary even where the build has static ones, as those of a decoder do.
    """

    module: nn.Module
    model_path: str
    batch: Mapping[str, Any]
    inputs: Sequence[tuple[str, tuple[str | None, ...]]]
    outputs: Sequence[str]
    pads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    varies: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A graph that another one computes, too, so that both come of one trace.

    Attributes:
        inputs: names of the other's inputs that it takes.
        outputs: names of the other's outputs that it has.
        of: the other's name.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    of: str = "eval"


class Task(abc.ABC):
    """One task around an adapted model.

    Args:
        model: a peft.PeftModel, or the model itself.
        image: how images go in; None of texts.
    """

    name: ClassVar[str]
    """As optimum's TasksManager has it, which knows the model's class by it."""
    peft_type: ClassVar[str | None]
    """PEFT's task type; None for its generic wrapper, which passes inputs on as they are."""
    modality: ClassVar[Literal["text", "image"]] = "text"
    """What goes in."""
    labelled: ClassVar[bool] = False
    """Whether there are classes, whose names the bundle keeps in the order of the logits."""
    unsplittable: ClassVar[str | None] = None
    """Why the frozen part cannot be cut off; None where it can."""

    def __init__(self, model: Any, image: ImageSpec | None = None) -> None:
        self._model, self._image = model, image

    @classmethod
    def check_labels(cls, labels: Sequence[str]) -> None:
        """Check names of labels before the model is loaded.

        Raises:
            UnsupportedModel: there are none to be named, or some that are named twice.
        """
        from fieldtune.errors import UnsupportedModel

        if labels and not cls.labelled:
            raise UnsupportedModel(f"labels {', '.join(labels)} for {cls.name}, which has no classes; leave them out")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise UnsupportedModel(f"labels named more than once: {', '.join(twice)}")

    @classmethod  # noqa: B027 (most have nothing to check)
    def check_config(cls, config: Any, model: str) -> None:
        """Check the configuration of a loaded model, which messages call by its name.

        Raises:
            UnsupportedModel: a kind of head that is not supported.
        """

    @classmethod
    def labels_of(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the classes in the order of the logits; none where there are no classes."""
        names: Mapping[int, str] = config.id2label if cls.labelled else {}
        return tuple(names[index] for index in sorted(names))

    @abc.abstractmethod
    def graphs(self, batch: int, sequence: int) -> dict[str, Traceable | Part]:
        """Return what is traced: by the graph's name, ``GRADIENT`` and ``eval`` among them; parts come last.

        ``gradient`` computes ``loss_sum`` and ``weight``, float32 scalars; ``eval`` these and what the device's meter
        of the task counts from; whatever else there is serves.
        """

    @abc.abstractmethod
    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch with padding and masked labels: int64 tensors (batch, sequence) and labels."""

    @abc.abstractmethod
    def inference_batches(self, batch: int, sequence: int, seed: int) -> Iterable[dict[str, torch.Tensor]]:
        """Return inputs for infer.onnx by graph input name, to compare at."""

    @abc.abstractmethod
    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return transformers' own answer for such inputs, by graph output name."""

    @abc.abstractmethod
    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss (differentiable) and its weight by transformers' own loss, not the traced module's."""

    @classmethod
    @abc.abstractmethod
    def noise_labels(
        cls, rng: np.random.Generator, manifest: Manifest, input_ids: npt.NDArray[np.int64] | None, *, masked: bool
    ) -> Arrays:
        """Return labels of one example of noise, as the device's task gives them to batches.

        Args:
            rng: decides.
            manifest: of the bundle.
            input_ids: of the example, int64, shape (n,); None of an image.
            masked: whether nothing of it has a label, where a task knows that.
        """


def masked_text(model: nn.Module, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
    """Return random ids (int64, shape (batch, sequence)) with right padding in every other row, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
    ids = torch.randint(0, vocabulary, (batch, sequence), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(0, batch, 2):
        mask[row, sequence - (1 + row % max(1, sequence // 2)) :] = 0
    return {"input_ids": ids, "attention_mask": mask}
