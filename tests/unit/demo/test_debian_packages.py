"""Debian packages are fetched with the system's lists, else with lists of our own, and what fails is said."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  "download -qq thing=1") exit {plain};;
  *"update -qq") exit 0;;
  *"download -qq thing=1") echo "E: Version '1' for 'thing' was not found" >&2; exit {own};;
esac
"""


@pytest.fixture
def assets(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "demo"))
    import assets

    return assets


@pytest.fixture
def fetch(assets, tmp_path, monkeypatch):
    """The function that downloads with an apt-get of the test's own and returns how that was called."""
    log = tmp_path / "log"
    thing = assets.Package(name="thing", version="1", file="thing_1_all.deb", sha256="")

    def call(plain=0, own=0):
        script = tmp_path / "bin" / "apt-get"
        script.parent.mkdir()
        script.write_text(APT_GET.format(log=log, plain=plain, own=own))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")
        assets._download_from_debian(thing, tmp_path, tmp_path / "packages" / "apt")
        return log.read_text().splitlines()

    return call


def test_the_lists_of_the_system_are_enough(fetch):
    assert fetch() == ["download -qq thing=1"]


def test_where_they_lack_the_package_lists_of_our_own_are_read(fetch, tmp_path):
    first, update, download = fetch(plain=100)
    assert first == "download -qq thing=1"
    lists = f"-o Dir::State::Lists={tmp_path / 'packages' / 'apt' / 'lists'} "
    assert update.startswith(lists)
    assert update.endswith(" update -qq")
    assert download.startswith(lists)
    assert download.endswith(" download -qq thing=1")


def test_what_no_archive_has_is_named(fetch, tmp_path):
    with pytest.raises(SystemExit, match="download -qq thing=1 failed: E: Version '1' for 'thing' was not found"):
        fetch(plain=100, own=100)


def test_a_system_without_apt_get_is_told_what_to_do(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    thing = assets.Package(name="thing", version="1", file="thing_1_all.deb", sha256="")
    with pytest.raises(SystemExit, match=f"apt-get, which is not on PATH: put that file into {tmp_path}/packages"):
        assets._download_from_debian(thing, tmp_path, tmp_path / "packages" / "apt")
