"""Measure the house: modules, their length, internal imports, public names, tests, imports against the rooms' order.

    python tools/house.py [--json]

Read from the syntax trees of the two packages alone; nothing is imported. The order of the rooms is that of the
contracts in pyproject.toml, so that the figures and what ``make check`` refuses are one.
"""

import argparse
import ast
import json
import math
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = {"fieldtune": "ondevice/fieldtune", "fieldtune_offline": "offline/fieldtune_offline"}
TESTS = REPOSITORY / "tests" / "unit"
MOST_IMPORTS = {"fieldtune": 3.5}
"""The most internal imports a module, in the mean; the dev box's half lies below that by itself."""


def modules(package: str) -> dict[str, Path]:
    """Return a package's modules by dotted name; a package's ``__init__`` goes by the package's name."""
    root = REPOSITORY / PACKAGES[package]
    paths = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        paths[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return paths


def internal_imports(tree: ast.Module, known: Mapping[str, Path]) -> set[str]:
    """Return the modules of the same package that a module imports, at any depth, for types only included."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= inner & set(known) or {str(node.module)}
    return imported


def public_names(name: str, tree: ast.Module) -> set[str]:
    """Return the names that a module defines without an underscore, unless the module itself has one."""
    if any(part.startswith("_") for part in name.split(".")):
        return set()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            targets = [part for target in node.targets for part in getattr(target, "elts", [target])]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def room(package: str, module: str) -> str:
    """Return the room of a module: its folder below the package, or its own name where it stands loose."""
    rest = module.removeprefix(package).strip(".")
    return f"{package}.{rest.split('.')[0]}" if rest else package


def floors(package: str) -> dict[str, int]:
    """Return room → height, from the layers of the package's contract; the higher one may import the lower."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == [package])
    return {
        f"{package}.{name.strip().strip('()')}": height
        for height, layer in enumerate(reversed(layers))
        for name in layer.replace(":", "|").split("|")
    }


def climbing(package: str, imports: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the imports of a room on a higher floor, or of another one on the same floor."""
    heights = floors(package)
    for module, targets in imports.items():
        for target in sorted(targets):
            here, there = room(package, module), room(package, target)
            if here != there and here in heights and there in heights and heights[there] >= heights[here]:
                yield module, target


def cycles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other, directly or through others (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for target in imports[module]:
            if target not in number:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in imports:
        if module not in number:
            visit(module)
    return groups


def untested(package: str, path: Path) -> bool:
    """Whether a module has no unit test at the path that mirrors its own."""
    inside = path.relative_to(REPOSITORY / PACKAGES[package])
    return not (TESTS / package / inside.parent / f"test_{inside.name}").exists()


def measure(package: str) -> dict[str, Any]:
    """Return the figures of one package."""
    known = modules(package)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    # What __init__ modules name for others to use says nothing of how the rooms depend on each other.
    rooms = {name for name, path in known.items() if path.name != "__init__.py"}
    imports = {name: internal_imports(tree, known) - {name} for name, tree in trees.items()}
    counts = [len(imports[name]) for name in rooms]
    lines = [len(known[name].read_text(encoding="utf-8").splitlines()) for name in rooms]
    return {
        "modules": len(rooms),
        "median lines": statistics.median(lines),
        "most lines": max(lines),
        "internal imports a module, mean": round(statistics.mean(counts), 2),
        "internal imports a module, most": max(counts),
        "public names": sum(len(public_names(name, trees[name])) for name in rooms),
        "without a unit test of its own": sum(untested(package, known[name]) for name in rooms),
        "climbing imports": [f"{module} -> {target}" for module, target in climbing(package, imports)],
        "cycles": cycles(imports),
    }


def faults_of(package: str, measured: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a package's figures."""
    for name in ("climbing imports", "cycles"):
        if measured[name]:
            yield f"{package}: {name}: {len(measured[name])}; expected none"
    mean, most = measured["internal imports a module, mean"], MOST_IMPORTS.get(package, math.inf)
    if mean > most:
        yield f"{package}: {mean} internal imports a module in the mean; expected at most {most}"


def main() -> int:
    """Print the figures; return 1 where an import climbs, modules import each other, or too many others in the mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object in place of lines")
    arguments = parser.parse_args()
    figures = {package: measure(package) for package in PACKAGES}
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        for package, measured in figures.items():
            print(package)
            for name, value in measured.items():
                print(f"  {name:34} {len(value) if isinstance(value, list) else value}")
                for item in value if isinstance(value, list) else ():
                    print(f"    {item}")
    faults = [fault for package, measured in figures.items() for fault in faults_of(package, measured)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
