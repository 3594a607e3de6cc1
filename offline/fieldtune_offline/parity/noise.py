"""Noise to compare graphs on: batches with padding and masked labels, in two shapes where sizes may vary."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.bundle.manifest import IGNORE_INDEX, ImageSpec, Manifest
from fieldtune.bundle.opening import TOKENIZER_NAME
from fieldtune.data.batches import batch_of, static_shape
from fieldtune.data.examples import TEXT_CLASSIFICATION, Encoded, EncodedImage

_SHAPES = ((3, 17), (2, 34))

Arrays = dict[str, npt.NDArray[Any]]


def noise_batches(root: Path, manifest: Manifest) -> list[Arrays]:
    """Return batches as eval.onnx takes them, of noise that is the same each time.

    Args:
        root: folder of the bundle, of which the tokenizer and eval.onnx are read.
        manifest: of it.

    Returns:
        Two batches of different shapes where sizes may vary, else one: input name → array. Rows differ in length, the
        last of three has no label, and of texts to be generated the first third has none.
    """
    inputs = manifest.graphs["eval"].inputs
    fixed = static_shape(inputs)
    sizes = dict.fromkeys((fixed[0] or batch, fixed[1] or sequence) for batch, sequence in _SHAPES)
    rng = np.random.default_rng(7)
    vocabulary = _vocabulary(root, manifest) if manifest.text else 0
    batches: list[Arrays] = []
    for batch, sequence in sizes:
        examples: list[Encoded | EncodedImage] = []
        for row in range(batch):
            masked = batch > 2 and row == batch - 1
            if manifest.image:
                examples.append(_image(rng, manifest.image, _label(rng, manifest, masked=masked)))
            else:
                examples.append(_text(rng, manifest, vocabulary, max(2, sequence - 2 * row), row, masked=masked))
        batches.append(batch_of(examples, np.arange(batch), manifest, inputs))
    return batches


def _label(rng: np.random.Generator, manifest: Manifest, *, masked: bool) -> npt.NDArray[np.int64]:
    return np.array(IGNORE_INDEX if masked else rng.integers(0, len(manifest.task.labels)), np.int64)


def _image(rng: np.random.Generator, image: ImageSpec, label: npt.NDArray[np.int64]) -> EncodedImage:
    pixels = rng.integers(0, 256, (image.channels, image.height, image.width), np.uint8)
    return EncodedImage(pixels=pixels, labels=label)


def _text(
    rng: np.random.Generator, manifest: Manifest, vocabulary: int, length: int, row: int, *, masked: bool
) -> Encoded:
    assert manifest.text is not None
    input_ids = rng.integers(0, vocabulary, length)
    if row == 0:
        # The padding token as one that counts: what learns from it and what does not shows in the gradients.
        input_ids[[1, -2]] = manifest.text.pad_token_id
    if manifest.task.name == TEXT_CLASSIFICATION:
        return Encoded(input_ids=input_ids, labels=_label(rng, manifest, masked=masked))
    labels = np.where(np.arange(length) < length // 3, IGNORE_INDEX, input_ids)
    return Encoded(input_ids=input_ids, labels=labels)


def _vocabulary(root: Path, manifest: Manifest) -> int:
    """Return the number of ids that the tokenizer and the embedding have in common: either may have more."""
    from tokenizers import Tokenizer

    graph = ir.load(root / manifest.graphs["eval"].path).graph
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    tables = [use.node.inputs[0] for use in ids.uses() if use.node.op_type == "Gather" and use.idx == 1]
    held = [table.const_value for table in tables if table is not None]
    rows = [tensor.shape.numpy()[0] for tensor in held if tensor is not None]
    return min([Tokenizer.from_file(str(root / TOKENIZER_NAME)).get_vocab_size(), *rows])
