"""What a command works with: opened together, and told where it is not the CPU that was asked for."""

import pytest

from builders import CPU, image_spec, manifest, profile_text, write_bundle
from builders import profile as board
from fieldtune.cli.shared.opened import open_named
from fieldtune.errors import InvalidBundle, InvalidProfile, ProviderUnavailable
from fieldtune.hardware.specs import ExecutionSpec

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", manifest(image=image_spec()), {}).root


@pytest.fixture
def path(tmp_path):
    """The function that writes a profile with this execution; returns its path."""

    def write(**execution):
        text = profile_text(board(execution=ExecutionSpec(**execution)))
        (tmp_path / "board.toml").write_text(text, encoding="utf-8")
        return str(tmp_path / "board.toml")

    return write


def test_the_cpu_that_was_asked_for_needs_no_word(bundle, path):
    opened = open_named(bundle, path(), None)
    assert (opened.profile.name, opened.bundle.root, opened.choice.provider) == ("board", bundle, CPU)
    assert opened.choice.is_plain


def test_the_cpu_in_place_of_another_provider_is_told(bundle, path):
    opened = open_named(bundle, path(provider="QNNExecutionProvider"), "cpu")
    assert (opened.choice.provider, opened.choice.requested) == (CPU, "QNNExecutionProvider")
    assert not opened.choice.is_plain


def test_what_is_missing_is_told_before_any_work(bundle, path, tmp_path):
    with pytest.raises(ProviderUnavailable, match="QNNExecutionProvider is what the profile board asks for"):
        open_named(bundle, path(provider="QNNExecutionProvider"), None).choice  # noqa: B018 (asking is the test)
    with pytest.raises(InvalidBundle, match="not a bundle"):
        open_named(tmp_path / "nothing", path(), None)
    with pytest.raises(InvalidProfile, match="no hardware profile 'no-such-board'"):
        open_named(bundle, "no-such-board", None)


def test_a_bundle_without_the_accelerators_prefix_is_refused_even_where_the_cpu_would_do(bundle):
    with pytest.raises(InvalidBundle, match="DPUCZDX8G_ISA1_B4096"):
        open_named(bundle, "kv260", "cpu").choice  # noqa: B018
