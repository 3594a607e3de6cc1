"""The rules of the house that no linter knows: who may name a task, a method or a precision, and what is public."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("no development environment, which has both halves", allow_module_level=True)

from fieldtune.adapters.methods.table import all_methods
from fieldtune.tasks.table import task_names
from fieldtune_offline.precisions.table import NAMES

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (REPOSITORY / "ondevice" / "fieldtune", REPOSITORY / "offline" / "fieldtune_offline")
ROOMS = ("tasks", "methods", "precisions")
# A fold pass belongs to its method, and is called after it.
OWN = ("fold_",)
# ONNX Runtime's names for its own form of adapters.
RUNTIME_API = {"LoraAdapter", "has_lora_adapter"}

METHODS = {method.name for method in all_methods()}
# Other precisions of the base are called after types of numbers, of which everything may speak.
PRECISIONS = set(NAMES) - {"float32", "int8"}
WORDS = {*task_names(), *METHODS, *(method.peft_type for method in all_methods()), *PRECISIONS}
IN_A_STRING = re.compile(rf"(^|[.\s])({'|'.join(METHODS)})_\w|\b({'|'.join(m.peft_type for m in all_methods())})\b")


def _elsewhere():
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            inside = path.relative_to(package)
            if not set(ROOMS) & set(inside.parts) and not path.name.startswith(OWN):
                yield path


def _identifiers(tree):
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield node, value


def _strings(tree):
    """Yield the string constants that are no docstrings: prose may say what LoRA is."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node, node.value


def _named(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node, name in _identifiers(tree):
        if name not in RUNTIME_API and (METHODS | PRECISIONS) & set(name.lower().split("_")):
            yield f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', '?')}: the identifier {name}"
    for node, text in _strings(tree):
        if text not in RUNTIME_API and (text in WORDS or IN_A_STRING.search(text)):
            yield f"{path.relative_to(REPOSITORY)}:{node.lineno}: the string {text!r}"


def test_tasks_methods_and_precisions_are_named_in_their_own_modules_and_tables_alone():
    assert [fault for path in _elsewhere() for fault in _named(path)] == []
