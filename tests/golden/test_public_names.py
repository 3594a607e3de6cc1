"""The public names of both packages and their rooms, which ``public_names.json`` holds.

Others rely on what is there: a name comes or goes on purpose, or not at all.
``python tests/golden/test_public_names.py`` writes the file again.
"""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("public_names.json")
PACKAGES = ("fieldtune", "fieldtune_offline")


def public_names(package):
    """Return the names of a package and of its rooms; what lies deeper is its room's own."""
    parts = pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}.")
    rooms = (importlib.import_module(name) for name in (package, *(part.name for part in parts if part.ispkg)))
    return {room.__name__: sorted(room.__all__) for room in rooms if hasattr(room, "__all__")}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_on_record(package):
    pytest.importorskip(package, reason="the dev box's half is not installed")
    golden = {room: names for room, names in json.loads(GOLDEN.read_text()).items() if room.split(".")[0] == package}
    names, kept = _whole(public_names(package)), _whole(golden)
    new, gone = (", ".join(sorted(some)) or "none" for some in (names - kept, kept - names))
    assert names == kept, (
        f"new: {new}; gone: {gone}; where that is meant, run: python tests/golden/{Path(__file__).name}"
    )


def _whole(rooms):
    return {f"{room}.{name}" for room, names in rooms.items() for name in names}


def _write() -> None:
    rooms = {room: names for package in PACKAGES for room, names in public_names(package).items()}
    GOLDEN.write_text(json.dumps(rooms, indent=1) + "\n")


if __name__ == "__main__":
    _write()
