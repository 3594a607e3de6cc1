import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders import image_spec
from fieldtune.data.dialogue import TextExample
from fieldtune.data.images import ImageExample
from fieldtune.data.rows import Row
from fieldtune.errors import InvalidData
from fieldtune.tasks.interface import Item, Task

Make = Callable[..., Task]
IMAGE = image_spec(4, 4)


def save(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def message_of(path: Path, task: Task) -> str:
    with pytest.raises(InvalidData) as caught:
        task.read(path)
    return str(caught.value)


def test_columns_are_guessed_and_need_a_choice(brightness: Make) -> None:
    def images(names: list[str], *, labelled: bool = True, **named: str) -> dict[str, str]:
        rows = [Row(1, dict.fromkeys(names, "x"))]
        return dict(brightness().choose(rows, named, labelled=labelled).columns)

    for name in ("image", "file", "Path", "filename", "image_path", "img"):
        assert images(["id", name, "class"]) == {"image": name, "label": "class"}
    assert images(["photo", "class"]) == {"image": "photo", "label": "class"}, "the only one left"
    assert images(["path", "image"], image="path", labelled=False) == {"image": "path"}
    with pytest.raises(InvalidData, match=r"which column holds the image; .*; name it with --image-column"):
        images(["label", "x", "y"])
    with pytest.raises(InvalidData, match="no column 'img', which --image-column names"):
        images(["image", "label"], image="img")
    with pytest.raises(InvalidData, match="--text-column cannot be used: the bundle's task is image classification"):
        images(["image", "label"], text="image")


def test_images_lie_where_the_file_says(tmp_path: Path, brightness: Make) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(b"")
    absolute = str(tmp_path / "photos" / "b.png")
    path = save(
        tmp_path / "a.jsonl", {"file": "photos/a.png", "label": "light"}, {"file": absolute, "label": 0, "text": "x"}
    )
    examples, note = brightness().read(path)
    assert examples == (
        ImageExample(path=tmp_path / "photos" / "a.png", label=1),
        ImageExample(path=tmp_path / "photos" / "b.png", label=0),
    )
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:2"]
    assert note.startswith("columns: image from 'file', label from 'label' (guessed; name them with --image-column and")
    assert brightness().read(path, labelled=False)[0][0] == ImageExample(path=tmp_path / "photos" / "a.png")


def test_every_image_that_is_missing_is_named(tmp_path: Path, brightness: Make) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,label\nx.png,dark\n,light\n" + "long " * 100 + ",grey\n")
    lines = message_of(path, brightness()).splitlines()
    assert lines[0] == f"{path}: 4 faults; the labels are 0 'dark', 1 'light'"
    assert lines[1] == f"  - {path}:2: 'image': no such file ({tmp_path / 'x.png'})"
    assert lines[2] == f"  - {path}:3: 'image' is empty"
    assert lines[3].startswith(f"  - {path}:4: 'image': no such file (")
    assert lines[4] == f"  - {path}:4: 'label': label 'grey' is unknown"


def test_a_folder_is_read(tmp_path: Path, brightness: Make) -> None:
    (tmp_path / "dark").mkdir()
    (tmp_path / "dark" / "a.png").write_bytes(b"")
    examples, note = brightness().read(tmp_path)
    assert examples == (ImageExample(path=tmp_path / "dark" / "a.png", label=0),)
    assert note == "1 images, labelled by 1 folders"


def test_examples_keep_their_labels(tmp_path: Path, brightness: Make) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    path, task = tmp_path / "a.npy", brightness(image=IMAGE)
    encoded = task.encode([ImageExample(path=path, label=1), ImageExample(path=path)])
    assert [int(example.arrays["labels"]) for example in encoded.examples] == [1, -100]
    assert [example.arrays["pixel_values"].dtype for example in encoded.examples] == [np.uint8] * 2
    np.testing.assert_array_equal(encoded.examples[0].arrays["pixel_values"], array.transpose(2, 0, 1))
    assert [example.weight for example in encoded.examples] == [1, 0]
    assert encoded.lengths.tolist() == [1, 1]
    assert (encoded.truncated, encoded.dropped) == (0, 0)
    with pytest.raises(TypeError, match="ImageExample only"):
        task.encode([TextExample(text="x")])


def test_every_example_that_cannot_be_read_is_named_by_its_line(tmp_path: Path, brightness: Make) -> None:
    missing = [ImageExample(path=tmp_path / f"{name}.npy", label=0, where=f"rows.csv:{name}") for name in (2, 3)]
    with pytest.raises(InvalidData) as caught:
        brightness(image=IMAGE).encode(missing)
    assert str(caught.value).splitlines() == [
        "2 images of 2 cannot be used",
        f"  - rows.csv:2: {tmp_path / '2.npy'}: no such file; expected an image",
        f"  - rows.csv:3: {tmp_path / '3.npy'}: no such file; expected an image",
    ]


def test_files_and_folders_that_are_named_become_images(tmp_path: Path, brightness: Make) -> None:
    for name in ("day/a.png", "day/b.png", "day/notes.txt", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    said: list[str] = []
    items = brightness().given([str(tmp_path / "c.png"), str(tmp_path / "day")], None, said.append)
    paths = [tmp_path / "c.png", tmp_path / "day" / "a.png", tmp_path / "day" / "b.png"]
    assert items == [Item(str(path), path) for path in paths]
    assert said == [f"{tmp_path / 'day'}: 2 images; not read: 'notes.txt'"]
