"""Real data from a Debian package, which has to be fetched first."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_fashion_has_the_images_that_its_tables_name(asset, lacks):
    try:
        folder = asset("fashion")
    except SystemExit as error:
        lacks("debian", str(error))
    for name, count in (("train", 2000), ("eval", 1000), ("test", 9000)):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert len(rows) == count
        assert all((folder / row["image"]).is_file() for row in rows)
        assert len({row["label"] for row in rows}) == 10
