"""Image classification: one label per image, by cross-entropy over a head's logits."""

import torch
from torch import nn

from fieldtune_offline.tasks.classification import Classification, loss_outputs


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, *, with_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.with_logits = with_logits

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return loss_outputs(self.model(pixel_values=pixel_values).logits, labels, with_logits=self.with_logits)


class ImageClassification(Classification):
    """The task around an adapted AutoModelForImageClassification with two or more labels; images have one size."""

    name = "image-classification"
    peft_type = None
    modality = "image"
    inputs = (("pixel_values", ("batch", None, None, None)),)

    def features(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return noise images (float32)."""
        generator = torch.Generator().manual_seed(seed)
        assert self._image is not None
        shape = (batch, self._image.channels, self._image.height, self._image.width)
        return {"pixel_values": torch.randn(shape, generator=generator)}

    def loss_module(self, *, with_logits: bool) -> nn.Module:
        """Return what takes images and labels."""
        return _Loss(self._model, with_logits=with_logits)
