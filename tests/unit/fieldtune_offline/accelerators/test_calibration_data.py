"""Examples that ranges are taken from, and others on which accuracy is measured."""

import dataclasses
import json

import numpy as np
import pytest

from builders import graph_spec, image_spec, manifest, tensor_spec
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.tasks.table import new_task
from fieldtune_offline.accelerators.calibration_data import (
    MEASURED_EXAMPLES,
    Calibration,
    padded_batches,
    read_calibration,
)

IMAGES = manifest(
    task="image-classification",
    image=image_spec(2, 2, 1, mean=(0.0,), std=(1.0,)),
    graphs={"prefix": graph_spec("prefix", inputs=(tensor_spec("pixel_values", 3, 1, 2, 2),))},
)


def encoded(*labels):
    """Images of one brightness each, of which some have no label."""
    return EncodedSet(
        examples=tuple(
            Encoded(
                arrays={"pixel_values": np.full((1, 2, 2), number, np.uint8), "labels": np.array(label)},
                weight=float(label >= 0),
            )
            for number, label in enumerate(labels)
        )
    )


def test_accuracy_is_measured_on_labelled_examples_that_were_not_calibrated_on():
    calibration = Calibration(encoded=encoded(0, 1, -100, 1, 0, -100, 1), count=2)
    assert calibration.measured == (3, 4, 6)
    assert calibration.unmeasured is None
    assert str(calibration) == "2 examples to calibrate on, 3 others to measure accuracy on"


def test_why_accuracy_is_not_measured_is_told():
    few = Calibration(encoded=encoded(0, 1, -100, 1), count=2)
    assert few.unmeasured == "accuracy needs 2 examples with a label beside the 2 that were calibrated on; found 1"
    assert str(few).endswith(f"1 others to measure accuracy on ({few.unmeasured})")
    many = dataclasses.replace(Calibration(encoded=encoded(0, 1, 0, 1, 0), count=2), one_label=False)
    assert many.unmeasured == "accuracy is measured where each example has one label"


def test_the_last_batch_is_filled_up_with_the_last_sample():
    batches = list(padded_batches(encoded(0, 1, 0, 1, 0), [4, 0, 2, 1], IMAGES, 3))
    assert [count for count, _ in batches] == [3, 1]
    shown = [(255 * arrays["pixel_values"][:, 0, 0, 0]).round().tolist() for _, arrays in batches]
    assert shown == [[4, 0, 2], [1, 1, 1]]
    assert list(batches[0][1]) == ["pixel_values"]


@pytest.fixture
def photos(tmp_path):
    """A file of images, sorted by label as files often are."""
    rows = []
    for number in range(20):
        path = tmp_path / f"{number}.npy"
        np.save(path, np.full((2, 2), 10 * number, np.uint8))
        rows.append({"image": path.name, "label": "negative" if number < 10 else "positive"})
    (tmp_path / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "photos.jsonl"


def test_examples_are_mixed_the_same_way_each_time_and_half_of_them_left_to_measure_on(photos):
    task = new_task(IMAGES.task, image=IMAGES.image)
    found, again = (read_calibration(photos, task, 256, None) for _ in range(2))
    assert (found.count, len(found.measured), len(found.encoded.examples)) == (10, 10, 20)
    labels = [int(example.arrays["labels"]) for example in found.encoded.examples]
    assert labels == [int(example.arrays["labels"]) for example in again.encoded.examples]
    assert set(labels[:10]) == {0, 1}
    assert sum(labels) == 10
    assert read_calibration(photos, task, 4, None).count == 4
    assert MEASURED_EXAMPLES > 20
