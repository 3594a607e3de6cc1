"""EfficientNet-Lite as a transformers model, in plain torch layers that PEFT can adapt.

The architecture is that of Tan and Le 2019 without squeeze-and-excitation and with ReLU6, as its authors published it
for accelerators: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Padding is
TensorFlow's "SAME" for one image size, in layers of its own. The file lies beside the weights in the model directory:
``from_pretrained(..., trust_remote_code=True)`` runs it.
"""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
EPSILON = 1e-3


class EfficientNetLiteConfig(PretrainedConfig):
    """Settings of EfficientNet-Lite0."""

    model_type = "efficientnet_lite"

    def __init__(self, image_size: int = 224, num_channels: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.num_channels = num_channels


def _same(size: int, kernel: int, stride: int) -> tuple[nn.Module, int]:
    """Return TensorFlow's padding for an image of a size, and the size after the convolution."""
    after = -(-size // stride)
    total = max((after - 1) * stride + kernel - size, 0)
    before = total // 2
    pad = nn.ZeroPad2d((before, total - before, before, total - before)) if total else nn.Identity()
    return pad, after


class Block(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where shapes allow one."""

    def __init__(self, size: int, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expand = nn.Conv2d(inner, wide, 1, bias=False) if expansion != 1 else None
        self.expand_norm = nn.BatchNorm2d(wide, eps=EPSILON) if expansion != 1 else None
        self.pad, self.size = _same(size, kernel, stride)
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(wide, eps=EPSILON)
        self.project = nn.Conv2d(wide, outer, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outer, eps=EPSILON)
        self.activation = nn.ReLU6()
        self.shortcut = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, (batch, channels, height, width)."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(self.pad(y))))
        y = self.project_norm(self.project(y))
        return x + y if self.shortcut else y


class EfficientNetLiteForImageClassification(PreTrainedModel):
    """EfficientNet-Lite0 with a linear head on the mean of its features."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem_pad, size = _same(config.image_size, 3, 2)
        self.stem = nn.Conv2d(config.num_channels, STEM_CHANNELS, 3, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(STEM_CHANNELS, eps=EPSILON)
        blocks, channels = [], STEM_CHANNELS
        for repeats, kernel, stride, expansion, outer in STAGES:
            for number in range(repeats):
                blocks.append(Block(size, channels, outer, kernel, stride if number == 0 else 1, expansion))
                channels, size = outer, blocks[-1].size
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(HEAD_CHANNELS, eps=EPSILON)
        self.activation = nn.ReLU6()
        self.classifier = nn.Linear(HEAD_CHANNELS, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **_: Any
    ) -> ImageClassifierOutput:
        """Return logits (batch, labels), and the mean cross-entropy where labels are given."""
        x = self.activation(self.stem_norm(self.stem(self.stem_pad(pixel_values))))
        for block in self.blocks:
            x = block(x)
        x = self.activation(self.head_norm(self.head(x)))
        logits = self.classifier(x.mean(dim=(2, 3)))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return ImageClassifierOutput(loss=loss, logits=logits)
