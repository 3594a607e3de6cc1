"""Noise to compare graphs on: batches with padding and masked labels, in two shapes where sizes may vary."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from fieldtune.bundle import TOKENIZER_NAME, ImageSpec, Manifest
from fieldtune.data import Encoded, batch_of, static_shape
from fieldtune_offline.tasks.interface import Arrays
from fieldtune_offline.tasks.table import task_class

_SHAPES = ((3, 17), (2, 34))


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
    # Images have no sequence, by which two batches of one static size would differ.
    sizes = dict.fromkeys(
        (fixed[0] or batch, 0 if manifest.image else fixed[1] or sequence) for batch, sequence in _SHAPES
    )
    rng = np.random.default_rng(7)
    vocabulary = _vocabulary(root, manifest) if manifest.text else 0
    task = task_class(manifest.task.name)
    batches: list[Arrays] = []
    for batch, sequence in sizes:
        examples: list[Encoded] = []
        for row in range(batch):
            masked = batch > 2 and row == batch - 1
            length = max(2, sequence - 2 * row)
            content = _image(rng, manifest.image) if manifest.image else _text(rng, manifest, vocabulary, length, row)
            labels = task.noise_labels(rng, manifest, content.get("input_ids"), masked=masked)
            examples.append(Encoded(arrays={**content, **labels}, weight=0 if masked else 1))
        batches.append(batch_of(examples, np.arange(batch), inputs, image=manifest.image))
    return batches


def _image(rng: np.random.Generator, image: ImageSpec) -> Arrays:
    return {"pixel_values": rng.integers(0, 256, (image.channels, image.height, image.width), np.uint8)}


def _text(rng: np.random.Generator, manifest: Manifest, vocabulary: int, length: int, row: int) -> Arrays:
    assert manifest.text is not None
    input_ids = rng.integers(0, vocabulary, length)
    if row == 0:
        # The padding token as one that counts: what learns from it and what does not shows in the gradients.
        input_ids[[1, -2]] = manifest.text.pad_token_id
    return {"input_ids": input_ids}


def _vocabulary(root: Path, manifest: Manifest) -> int:
    """Return the number of ids that the tokenizer and the embedding have in common: either may have more."""
    from tokenizers import Tokenizer

    graph = ir.load(root / manifest.graphs["eval"].path).graph
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    tables = [use.node.inputs[0] for use in ids.uses() if use.node.op_type == "Gather" and use.idx == 1]
    held = [table.const_value for table in tables if table is not None]
    rows = [tensor.shape.numpy()[0] for tensor in held if tensor is not None]
    return min([Tokenizer.from_file(str(root / TOKENIZER_NAME)).get_vocab_size(), *rows])
