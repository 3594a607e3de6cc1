"""Examples into what batches are made of, by the bundle's modality: texts into token ids, images into pixels."""

from collections.abc import Sequence

from fieldtune.bundle.opening import Bundle
from fieldtune.data.examples import EncodedSet, Example
from fieldtune.data.images import encode_images
from fieldtune.data.tokenizing import encode_examples, load_tokenizer


def encode(
    examples: Sequence[Example], bundle: Bundle, *, max_length: int | None = None, strict: bool = False
) -> EncodedSet:
    """Encode examples of a bundle's task.

    Args:
        examples: as ``load_examples`` returns them for that task.
        bundle: its tokenizer, or how it takes images, decides.
        max_length: tokens that a text may have; the model's own limit if None. Of no meaning for images.
        strict: refuse texts that are too long instead of cutting them.

    Raises:
        InvalidData: texts as ``encode_examples`` refuses them; images that cannot be read; every one is named, up
            to 20.
        CorruptFile: the installed tokenizers package cannot read the bundle's tokenizer.
        FieldtuneError: images have to be read, and Pillow is not installed.
    """
    manifest = bundle.manifest
    if manifest.image is not None:
        return encode_images(examples, manifest.image)
    tokenizer = load_tokenizer(bundle.tokenizer_path)
    return encode_examples(examples, tokenizer, bundle.text, manifest.task, max_length=max_length, strict=strict)
