"""The faces of the rooms: every name that a room lists is there, and none is hidden by a module of its name."""

import importlib
import pkgutil

import pytest

import fieldtune

PACKAGES = pkgutil.walk_packages(fieldtune.__path__, "fieldtune.")
ROOMS = ["fieldtune", *(room.name for room in PACKAGES if room.ispkg)]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_is_no_module(room):
    face = importlib.import_module(room)
    modules = {module.name for module in pkgutil.iter_modules(face.__path__)}
    for name in getattr(face, "__all__", ()):
        assert name not in modules
        assert getattr(face, name) is not None
    with pytest.raises(AttributeError, match="nobody"):
        face.nobody  # noqa: B018 (asking is the test)
