"""What all tests share: the order they run in, and real models and data from the cache."""

import contextlib
import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Builds keep what they download and install beside the tests' own files, not in the user's cache.
os.environ.setdefault("FIELDTUNE_CACHE", str(REPOSITORY / ".cache"))

# Cheap tests first: what they find need not wait for a model.
FOLDERS = ("unit", "property", "golden", "integration")


# What this machine is to have: a test that would skip for want of it fails.
REQUIRED = frozenset(filter(None, os.environ.get("FIELDTUNE_REQUIRE", "").split(",")))


APART = frozenset(
    f"tests/integration/test_{name}.py" for name in ("adapter_settings", "architectures", "merge", "vision")
)
"""Files whose tests share nothing, so that of several test processes any may take the next of them. They come last, for
whole files come first, those with the most tests ahead."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by folder, slow tests last."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        folder = next((index for index, name in enumerate(FOLDERS) if name in item.path.parts), len(FOLDERS))
        return item.get_closest_marker("slow") is not None, folder

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each test process a file at a time, so that what its tests share is made once, and of APART a test."""
    from xdist.scheduler import LoadScopeScheduling

    # Its own groups ("--dist loadgroup", xdist 3.8) rewrite ids of tests, which pytest 9.2 does not take from there.
    class FilesAndTests(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file in APART else file

    return FilesAndTests(config, log)


@pytest.fixture(scope="session")
def lacks() -> Callable[[str, str], NoReturn]:
    """Return the function that skips a test for what this machine lacks: ``lacks("compiler", "no cc on PATH")``.

    The test fails where FIELDTUNE_REQUIRE names what is lacking. Continuous integration sets it, so that no test is
    silently left out; CONTRIBUTING.md has the names.
    """

    def lacks(what: str, reason: str) -> NoReturn:
        if what in REQUIRED:
            pytest.fail(f"{reason}; FIELDTUNE_REQUIRE says that this machine has: {what}")
        pytest.skip(f"{what}: {reason}")

    return lacks


@pytest.fixture(scope="session")
def cache() -> Path:
    """Return the folder that keeps downloads, conversions and bundles between runs."""
    return Path(os.environ["FIELDTUNE_CACHE"]).resolve()


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Hold the cache: of several test processes, one at a time fills it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".tests.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def filling(cache: Path) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what holds the cache while something that tests share is made."""
    return lambda: alone(cache)


@pytest.fixture(scope="session")
def asset(cache: Path) -> Callable[[str], Path]:
    """Return a function from the name of an asset (``minilm``, ``smollm2``, ``reviews``, …) to its folder."""
    spec = importlib.util.spec_from_file_location("assets", REPOSITORY / "demo" / "assets.py")
    assert spec is not None
    assert spec.loader is not None
    assets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(assets)

    def fetch(name: str) -> Path:
        with alone(cache):
            return Path(assets.fetch(name, cache))

    return fetch


@pytest.fixture(scope="session")
def training_tool(cache: Path) -> bool:
    """Whether ONNX Runtime's official training artifacts can be made here; the first use installs the tool."""
    from fieldtune.errors import ExportError
    from fieldtune_offline.ort_training.export import training_python

    try:
        with alone(cache):
            training_python(print)
    except ExportError as error:
        if "training-build" in REQUIRED:
            raise
        print(error)
        return False
    return True


@pytest.fixture(scope="session")
def real_bundle(cache: Path) -> Callable[[str], Path]:
    """Return a function from ``real-minilm`` or ``real-smollm2`` to the bundle's folder; the first call builds it."""
    folder = Path(os.environ.get("FIELDTUNE_TEST_BUNDLES") or cache / "bundles")
    script = REPOSITORY / "tests" / "real_bundles.py"

    def find(name: str) -> Path:
        # A process of its own: a build's memory and warnings stay out of this one.
        with alone(cache):
            subprocess.run([sys.executable, str(script), str(folder), name, "--cache", str(cache)], check=True)
        return folder / name

    return find
