"""Write what is tested into the documents' tables, from the locks.

    python requirements/tested_versions.py

``make lock`` does it, too, and a unit test compares.
"""

import re
from pathlib import Path

import locks

README = locks.REPOSITORY / "README.md"
RUNTIMES = locks.REPOSITORY / "docs" / "test-other-runtimes-and-arm.md"


def readme(text: str) -> str:
    """Return the README with its rows of versions as the locks have them."""
    dev = locks.versions(locks.TORCH, locks.DEV.file)
    tested = {dev["onnxruntime"], *(_runtime(lock)[1] for lock in locks.DEVICE_TESTS if _runtime(lock)[0] == "stock")}
    training = [_runtime(lock)[1] for lock in locks.DEVICE_TESTS if _runtime(lock)[0] == "training"]
    runtimes = sorted(tested, key=_number)
    row = f"{runtimes[0]} to {runtimes[-1]}; tested: {', '.join(runtimes)}, training build {', '.join(training)}"
    pythons = sorted({locks.DEV.python, *(lock.python for lock in locks.DEVICE_TESTS)}, key=_number)
    device = f"device {pythons[0]} to {pythons[-1]}; tested: {', '.join(pythons)}"
    box = f"dev box {locks.DEV.python} or later; tested: {locks.DEV.python}"
    packages = ", ".join(f"{title} {dev[name]}" for name, title in DEV_BOX.items())
    text = _row(text, "ONNX Runtime", row)
    text = _row(text, "Python", f"{device}; {box}")
    return _row(text, "dev box's packages", f"tested: {packages}")


DEV_BOX = {"torch": "torch", "transformers": "transformers", "peft": "PEFT", "optimum": "optimum", "onnx-ir": "onnx-ir"}
"""Packages that a build follows from, and what they are called."""


def runtimes_page(text: str) -> str:
    """Return the page on other runtimes with its table as the locks have it."""
    rows = ["| Python | ONNX Runtime | NumPy |", "|---|---|---|"]
    for lock in locks.DEVICE_TESTS:
        kind, version = _runtime(lock)
        python = lock.python if kind == "stock" else f"{lock.python} or 3.12"
        runtime = version if kind == "stock" else f"onnxruntime-training-cpu {version}, 64-bit x86 only"
        rows.append(f"| {python} | {runtime} | {locks.versions(lock.file)['numpy']} |")
    return _one(r"^\| Python \| ONNX Runtime \| NumPy \|\n(?:\|.*\n)+", "\n".join(rows) + "\n", text)


def _runtime(lock: locks.Lock) -> tuple[str, str]:
    name, _, version = lock.asked[0].partition("==")
    return ("training" if "training" in name else "stock"), version


def _row(text: str, head: str, cell: str) -> str:
    return _one(rf"^\| {re.escape(head)} \| .* \|$", f"| {head} | {cell} |", text)


def _one(pattern: str, new: str, text: str) -> str:
    found, count = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{pattern}: expected once in the document, found {count} times")
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


WRITERS = {README: readme, RUNTIMES: runtimes_page}


def main() -> None:
    """Write the tables."""
    for file, write in WRITERS.items():
        Path(file).write_text(write(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
