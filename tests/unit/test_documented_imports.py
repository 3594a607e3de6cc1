"""Python in README.md and docs/ takes public names only: what a package or a room lists."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

if importlib.util.find_spec("fieldtune_offline") is None:
    pytest.skip("no development environment, which has both halves", allow_module_level=True)

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
PACKAGES = ("fieldtune", "fieldtune_offline")


def _blocks():
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        ):
            yield pytest.param(block, id=f"{page.stem}-{number}")


def _ours(block):
    """Return module and name of each import of ours; the name is "" where all of the module is imported."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            named = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            named = [(alias.name, "") for alias in node.names]
        else:
            continue
        yield from ((module, name) for module, name in named if module.split(".")[0] in PACKAGES)


@pytest.mark.parametrize("block", list(_blocks()))
def test_documented_code_imports_public_names_only(block):
    hidden = [
        f"from {module} import {name}" if name else f"import {module}"
        for module, name in _ours(block)
        if name not in _listed(importlib.import_module(module))
    ]
    assert hidden == []


def _listed(module):
    """Return the names that a package lists; a module that is none has nothing for others."""
    return getattr(module, "__all__", ()) if hasattr(module, "__path__") else ()


def test_pages_show_both_halves():
    modules = {module for block in _blocks() for module, _ in _ours(block.values[0])}
    assert {*PACKAGES, "fieldtune.training"} <= modules
