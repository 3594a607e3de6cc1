"""Write the lock files again, with the newest versions that pyproject.toml and the table of locks allow.

    make lock                    # all of them
    make lock ARGS=device        # by name

uv resolves from the metadata of packages, so that torch, a download of gigabytes on some indices, is not fetched.
Run with the Python of an environment that holds uv (``make lock`` makes it); what an index is called is left out.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import locks
import tested_versions

PYPROJECT = locks.REPOSITORY / "pyproject.toml"
UV = locks.FOLDER / "uv.txt"
TORCH = "2.13.0"
"""What everything here was run with. Its wheels differ by index and platform, so that it is locked by version alone."""

# What torch's wheels for NVIDIA's cards need beside them. torch pins it, and its wheels for CPUs have none of it.
ACCELERATOR = re.compile(r"(nvidia-|cuda-|triton\b)")

OFFLINE = locks.REPOSITORY / "offline" / "fieldtune_offline"
SHIPPED = {
    "ort-training": (OFFLINE / "ort_training", ["onnxruntime-training-cpu==1.19.2", "onnx==1.17.0"]),
    "quark": (
        OFFLINE / "accelerators" / "int8" / "quark",
        ["amd-quark==0.13", "onnxruntime==1.23.2", f"torch=={TORCH}"],
    ),
}
"""Environments of their own that the product makes, by the folder of their files. Their versions stay: they are what
the product was run with."""


def resolve(
    asked: Iterable[str],
    *,
    python: str = "3.11",
    extras: Sequence[str] = (),
    project: bool = False,
    omit: Iterable[str] = (),
    pins: dict[str, str] | None = None,
    hashes: bool = True,
) -> str:
    """Return what uv writes: the requirements and all that they need, each with its version.

    Args:
        asked: requirements.
        python: major.minor of the Python that it is for; the machine is x86-64 Linux.
        extras: of fieldtune, whose own requirements are taken, too, if there are any.
        project: whether fieldtune's own requirements are taken.
        omit: names to leave out of the result.
        pins: versions to keep to, by name.
        hashes: whether the hashes of all files of a version are written.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-config", "--only-binary"]
    command += [":all:", "--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--generate-hashes"] if hashes else []
    command += [part for name in omit for part in ("--no-emit-package", name)]
    with tempfile.TemporaryDirectory() as temporary:
        inputs, constraints = Path(temporary) / "asked.in", Path(temporary) / "pins.txt"
        inputs.write_text("".join(f"{requirement}\n" for requirement in asked), encoding="utf-8")
        held = "".join(f"{name}=={version}\n" for name, version in (pins or {}).items())
        constraints.write_text(held, encoding="utf-8")
        command += ["--constraints", str(constraints), "--no-annotate", str(inputs)]
        if project:
            command += [str(PYPROJECT), *(part for extra in extras for part in ("--extra", extra))]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write(file: Path, comment: Sequence[str], text: str) -> None:
    """Write a lock file under its comment."""
    head = "".join(f"# {line}\n" for line in (*comment, "Written by make lock; see requirements/README.md."))
    file.write_text(head + text, encoding="utf-8")
    print(f"{file.relative_to(locks.REPOSITORY)}: {len(_names(text))} packages", flush=True)


def lock_dev() -> None:
    """Write torch's file and the development environment's, which share no package."""
    lock, torch = locks.DEV, f"torch=={TORCH}"
    whole = resolve([torch, *lock.asked], python=lock.python, project=True, extras=lock.extras, hashes=False)
    pins = {name: version for name, version in _names(whole).items() if not ACCELERATOR.match(name)}
    cards = [name for name in _names(whole) if ACCELERATOR.match(name)]
    first = resolve([torch], python=lock.python, pins=pins, omit=cards, hashes=False)
    write(
        locks.TORCH,
        ["torch and what it needs, by versions alone: its wheels and their hashes differ by index and platform."],
        re.sub(r"^(torch==[\w.]+)\+\w+$", r"\1", first, flags=re.MULTILINE),
    )
    omit = [*cards, *_names(first)]
    rest = resolve([torch, *lock.asked], python=lock.python, project=True, extras=lock.extras, pins=pins, omit=omit)
    write(lock.file, _about(lock), rest)


def lock_device(lock: locks.Lock) -> None:
    """Write a device environment's file."""
    found = resolve(lock.asked, python=lock.python, project=True, extras=lock.extras)
    write(lock.file, _about(lock), found)


def lock_shipped(name: str) -> None:
    """Write the files of an environment that the product makes, with the versions that they have."""
    folder, asked = SHIPPED[name]
    file, torch = folder / "requirements.txt", folder / "torch.txt"
    known = locks.versions(*(path for path in (file, torch) if path.is_file()))
    pins = {package: version.partition("+")[0] for package, version in known.items()}
    omit = [package for package in _names(resolve(asked, pins=pins, hashes=False)) if ACCELERATOR.match(package)]
    if torch.is_file():
        first = resolve([f"torch=={TORCH}"], pins=pins, omit=omit, hashes=False)
        write(torch, _comment(torch), first.replace(f"torch=={TORCH}\n", f"torch=={TORCH}+cpu\n"))
        omit += _names(first)
    write(file, _comment(file), resolve(asked, pins=pins, omit=omit))


def lock_uv() -> None:
    """Write what ``make lock`` itself installs."""
    write(UV, ["uv, which make lock resolves with"], resolve(["uv"]))


def _about(lock: locks.Lock) -> list[str]:
    return [f"For {lock.about}.", f"Python {lock.python} on x86-64 Linux; elsewhere these versions without hashes."]


def _comment(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line[2:] for line in lines if line.startswith("# ") and "make lock" not in line]


def _names(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE))


def main() -> None:
    """Write the locks named on the command line, or all, and the tables of what is tested."""
    devices = {lock.name: lock for lock in locks.LOCKS if lock is not locks.DEV}
    known = ["uv", "dev", *devices, *SHIPPED]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=known, metavar="NAME", help=f"of {', '.join(known)}; all if none")
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"{', '.join(unknown)}: expected {', '.join(known)}")
    for name in names:
        if name == "uv":
            lock_uv()
        elif name == "dev":
            lock_dev()
        elif name in devices:
            lock_device(devices[name])
        else:
            lock_shipped(name)
    tested_versions.main()


if __name__ == "__main__":
    main()
