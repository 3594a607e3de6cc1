"""Folders of images: one sub-folder a label, as data sets of images are commonly kept."""

from pathlib import Path

from fieldtune.data.images import SUFFIXES, ImageExample
from fieldtune.data.labels import LabelIndex
from fieldtune.errors import InvalidData, listed

_MOST_SHOWN = 5


def read_folder(path: Path, labels: LabelIndex, *, labelled: bool) -> tuple[tuple[ImageExample, ...], str]:
    """Find the images below a folder, in the order of their paths; hidden files and folders are left out.

    Args:
        path: the folder.
        labels: those that are known; the names of the sub-folders are read as a label column's cells are.
        labelled: whether every image must lie in the folder of a label. If not, folders mean nothing.

    Returns:
        The examples, and a line for people that says what was found and what left out.

    Raises:
        InvalidData: there is no image; or images outside the labels' folders, or folders of unknown names: every one
            is named, up to 20.
    """
    images, others = image_files(path)
    examples: list[ImageExample] = []
    # A folder of an unknown name is one fault, whatever it holds.
    faults: dict[str, None] = {}
    for file in images:
        folders = file.relative_to(path).parts[:-1]
        label: int | None = None
        if labelled:
            named = labels.find(folders[0]) if folders else "lies in no label's folder"
            if isinstance(named, str):
                faults[f"{path / folders[0] if folders else file}: {named}"] = None
                continue
            label = named
        examples.append(ImageExample(path=file, label=label))
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InvalidData(f"{path}: {count}; the labels are {labels.known()}{listed(list(faults))}")
    said = f"{len(images)} images"
    if labelled:
        said += f", labelled by {len({example.label for example in examples})} folders"
    return tuple(examples), said + left_out(others)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images at any depth below a folder, and the files of other suffixes; both sorted, no hidden ones.

    Raises:
        InvalidData: there is no image.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            (images if path.suffix.lower() in SUFFIXES else others).append(path)
    if not images:
        raise InvalidData(f"{folder}: no image below it; expected files named {', '.join(SUFFIXES)}{left_out(others)}")
    return images, others


def left_out(others: list[Path]) -> str:
    """Return what to add to a line about a folder whose other files are not read."""
    if not others:
        return ""
    more = len(others) - _MOST_SHOWN
    shown = ", ".join(repr(path.name) for path in others[:_MOST_SHOWN]) + (f", … and {more} more" if more > 0 else "")
    return f"; not read: {shown}"
