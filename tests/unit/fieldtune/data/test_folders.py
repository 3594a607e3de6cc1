from pathlib import Path

import pytest

from fieldtune.data.folders import image_files, read_folder
from fieldtune.data.images import ImageExample
from fieldtune.data.labels import LabelIndex
from fieldtune.errors import InvalidData

LABELS = LabelIndex(("dark", "light"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("light/b.png", "light/a.JPG", "dark/day 1/c.npy", "dark/.hidden.png", ".git/d.png", "light/Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_a_sub_folder_is_a_label(folder: Path) -> None:
    examples, note = read_folder(folder, LABELS, labelled=True)
    assert examples == (
        ImageExample(path=folder / "dark" / "day 1" / "c.npy", label=0),
        ImageExample(path=folder / "light" / "a.JPG", label=1),
        ImageExample(path=folder / "light" / "b.png", label=1),
    )
    assert note == "3 images, labelled by 2 folders; not read: 'Thumbs.db'"


def test_without_labels_folders_mean_nothing(folder: Path) -> None:
    (folder / "unknown").mkdir()
    (folder / "unknown" / "e.png").write_bytes(b"")
    (folder / "f.png").write_bytes(b"")
    examples, note = read_folder(folder, LABELS, labelled=False)
    assert [example.path.name for example in examples] == ["c.npy", "f.png", "a.JPG", "b.png", "e.png"]
    assert {example.label for example in examples} == {None}
    assert note == "5 images; not read: 'Thumbs.db'"


def test_every_folder_without_a_label_is_named(folder: Path) -> None:
    for name in ("lihgt/e.png", "lihgt/f.png", "g.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(InvalidData) as caught:
        read_folder(folder, LABELS, labelled=True)
    assert str(caught.value).splitlines() == [
        f"{folder}: 2 faults; the labels are 0 'dark', 1 'light'",
        f"  - {folder / 'g.png'}: lies in no label's folder",
        f"  - {folder / 'lihgt'}: label 'lihgt' is unknown (did you mean 'light'?)",
    ]


def test_a_folder_without_images(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.txt").write_bytes(b"")
    with pytest.raises(InvalidData, match=r"no image below it; .*\.png.*; not read: '0.txt', .*'4.txt', … and 2 more$"):
        image_files(tmp_path)
