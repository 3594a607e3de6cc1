"""What the demos start leaves the caches of their user alone."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHOW = "from fieldtune.files import cache_folder; print(cache_folder())"


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "demo"))
    import environments
    import stages

    # What is installed is no matter here, and takes its time.
    monkeypatch.setattr(environments, "device_environment", lambda cache, also: cache / "environment")
    monkeypatch.setattr(environments, "describe", str)
    return stages


@pytest.mark.parametrize("named", ["", "of-its-user"])
def test_commands_of_a_demo_use_the_demos_own_cache(stages, named, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FIELDTUNE_CACHE", named and str(tmp_path / named))
    stages.prepare_device(tmp_path / "demo")
    capfd.readouterr()
    stages.ask(Path(sys.executable), ["-c", SHOW])
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "demo")
