"""Image classification: one label per image, by cross-entropy over a head's logits."""

from typing import Any

import torch
from torch import nn

from fieldtune.manifest import IGNORE_INDEX, ImageSpec
from fieldtune_offline.tasks import Batch, Traceable

_IMAGES = ("pixel_values", ("batch", None, None, None))
_LABELS = ("labels", ("batch",))


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.model(pixel_values=pixel_values).logits
        loss_sum = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
        weight = (labels != IGNORE_INDEX).sum().to(torch.float32)
        return (loss_sum, weight, logits) if self.with_logits else (loss_sum, weight)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(pixel_values=pixel_values).logits,)


class ImageClassification:
    """The task around an adapted AutoModelForImageClassification with two or more labels; images have one size."""

    def __init__(self, model: Any, image: ImageSpec) -> None:
        self._model = model
        self._labels = int(model.config.num_labels)
        self._shape = (image.channels, image.height, image.width)

    def batch(self, batch: int, _sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return noise images (float32), the last of several without a label."""
        generator = torch.Generator().manual_seed(seed + 1)
        labels = torch.randint(0, self._labels, (batch,), generator=generator)
        if batch > 2:
            labels[-1] = IGNORE_INDEX
        return {"pixel_values": self._images(batch, seed), "labels": labels}

    def training(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum`` and ``weight``."""
        module = _Loss(self._model, with_logits=False)
        batch_of = self.batch(batch, sequence, 0)
        return Traceable(module, "model", batch_of, (_IMAGES, _LABELS), ("loss_sum", "weight"))

    def evaluation(self, batch: int, sequence: int) -> Traceable:
        """Return what computes ``loss_sum``, ``weight`` and ``logits`` (float32, shape (batch, labels))."""
        module = _Loss(self._model, with_logits=True)
        outputs = ("loss_sum", "weight", "logits")
        return Traceable(module, "model", self.batch(batch, sequence, 0), (_IMAGES, _LABELS), outputs)

    def inference(self, batch: int, _sequence: int) -> Traceable:
        """Return what computes ``logits`` (float32, shape (batch, labels))."""
        images = {"pixel_values": self._images(batch, 0)}
        return Traceable(_Logits(self._model), "model", images, (_IMAGES,), ("logits",))

    def inference_batches(self, batch: int, _sequence: int, seed: int) -> list[dict[str, torch.Tensor]]:
        """Return one batch of images."""
        return [{"pixel_values": self._images(batch, seed)}]

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return the model's logits."""
        return {"logits": self._model(**feeds).logits}

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of labels."""
        weight = (batch["labels"] != IGNORE_INDEX).sum()
        kept = {name: tensor[batch["labels"] != IGNORE_INDEX] for name, tensor in batch.items()}
        return self._model(**kept).loss * weight, weight

    def _images(self, batch: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((batch, *self._shape), generator=generator)
