"""Names that are loaded on first use, from the module that has them."""

import sys

import pytest

from fieldtune.lazy import lazy_names


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, one of which cannot be imported."""
    folder = tmp_path / "lazily"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from fieldtune.lazy import lazy_names\n"
        '__getattr__ = lazy_names(__name__, {"inner": ("VALUE", "missing"), "broken": ("other",)})\n'
    )
    (folder / "inner.py").write_text("VALUE = object()\n")
    (folder / "broken.py").write_text("raise RuntimeError('as it is imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lazily

    yield lazily
    for name in ("lazily", "lazily.inner", "lazily.broken"):
        sys.modules.pop(name, None)


def test_a_module_is_imported_when_its_name_is_asked_for(package):
    assert "lazily.inner" not in sys.modules
    value = package.VALUE
    assert sys.modules["lazily.inner"].VALUE is value is package.VALUE


def test_a_name_that_nobody_has(package):
    with pytest.raises(AttributeError, match="module 'lazily' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'lazily\.inner' has no attribute 'missing'"):
        package.missing  # noqa: B018
    assert not hasattr(package, "__path_of_nothing__")


def test_an_error_of_the_import_is_told_as_it_is(package):
    with pytest.raises(RuntimeError, match="as it is imported"):
        package.other  # noqa: B018


def test_each_name_has_one_home():
    load = lazy_names("fieldtune.files", {"fields": ("Fields",), "json_form": ("json_value",)})
    assert load("Fields").__module__ == "fieldtune.files.fields"
    assert load("json_value").__module__ == "fieldtune.files.json_form"
