"""Image classification: one label an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.data import (
    Choice,
    Columns,
    EncodedSet,
    Example,
    ImageExample,
    LabelIndex,
    Report,
    Row,
    encoded_image,
    image_files,
    is_file,
    is_folder,
    left_out,
    load_images,
    read_folder,
    text_of,
)
from fieldtune.serving import LoadedAdapter, Runner
from fieldtune.tasks.classification import Classification, ClassificationTask
from fieldtune.tasks.interface import Item, Note


class ImageClassification(ClassificationTask):
    """One label an image; images are named by files, or lie in a folder for each label."""

    name = "image-classification"
    columns = {  # noqa: RUF012 (nobody changes it)
        "image": "Holds the image's file, seen from the folder of the file with the column.",
        "label": "Holds the label.",
    }
    item = "image"
    takes = frozenset({"batch_size"})
    content_names = ("image", "file", "path", "filename", "image_path", "img")

    def read(
        self, path: str | Path, columns: Columns | None = None, *, labelled: bool = True
    ) -> tuple[tuple[Example, ...], str]:
        """Read a file that names images, or a folder with a sub-folder for each label."""
        if Path(path).is_dir():
            return read_folder(Path(path), LabelIndex(self.spec.labels), labelled=labelled)
        return super().read(path, columns, labelled=labelled)

    def read_row(
        self,
        row: Row,
        choice: Choice,
        file: Path,
        fault: Report,
        *,
        labelled: bool,
    ) -> ImageExample | None:
        """Return an image's file and its label."""
        column = choice.columns["image"]
        named = text_of(row, column, fault)
        if named is not None and not is_file(file.parent / named):
            fault(f"{column!r}: no such file ({file.parent / named})")
            named = None
        label, sound = self.label_of(row, choice, fault)
        if named is None or not sound:
            return None
        return ImageExample(path=file.parent / named, label=label, where=row.where(file))

    def encode(
        self,
        examples: Sequence[Any],
        *,
        max_length: int | None = None,
        strict: bool = False,
    ) -> EncodedSet:
        """Read the images.

        Raises:
            InvalidData: files that are missing, damaged, too large or no images; every one is named, up to 20.
            FieldtuneError: Pillow is needed and is not installed.
        """
        sources = [(example.where, example.path) for example in examples if isinstance(example, ImageExample)]
        if len(sources) < len(examples):
            raise TypeError(f"{self.words} takes ImageExample only")
        pixels = load_images(sources, self.image)
        labelled = zip(pixels, (example.label for example in examples), strict=True)
        return EncodedSet(examples=tuple(encoded_image(image, label) for image, label in labelled))

    def given(self, texts: Sequence[str], options: Any, note: Note) -> list[Item]:
        """Return the images of files, and of all below folders."""
        files: list[Path] = []
        for path in map(Path, texts):
            if not is_folder(path):
                files.append(path)
                continue
            images, others = image_files(path)
            files += images
            note(f"{path}: {len(images)} images{left_out(others)}")
        return [Item(str(path), path) for path in files]

    def asked(self, example: ImageExample, options: Any) -> Item:
        """Return the image's file."""
        return Item(str(example.path), example.path)

    def answer(
        self,
        runner: Runner,
        contents: Sequence[str | Path | npt.NDArray[np.uint8]],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: Any = None,
    ) -> list[Classification]:
        """Classify images: files, or arrays of uint8, shape (height, width) or (height, width, 1 or 3).

        Raises:
            InvalidData: images that cannot be used; every one is named, up to 20.
            FieldtuneError: they have to be read or resized, and Pillow is not installed.
        """
        self.check_runner(runner)
        sources: list[tuple[str, Path | npt.NDArray[np.uint8]]] = [
            (f"image {number}", image) if isinstance(image, np.ndarray) else ("", Path(image))
            for number, image in enumerate(contents, start=1)
        ]
        examples = tuple(encoded_image(pixels) for pixels in load_images(sources, self.image))
        return self.classes(runner, EncodedSet(examples=examples), adapter, batch_size)
