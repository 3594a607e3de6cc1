"""What libraries say about themselves is not heard while they load and trace, and is heard again afterwards."""

import logging
import warnings

import pytest
from transformers.utils import logging as transformers_logging

from fieldtune_offline.quiet import quiet_loading, quiet_tracing


@pytest.mark.parametrize("quiet", [quiet_tracing, quiet_loading])
def test_warnings_about_internals_are_silent_inside_alone(quiet):
    with quiet():
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.warn("of an internal", category, stacklevel=1)
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)


@pytest.mark.parametrize("quiet", [quiet_tracing, quiet_loading])
def test_a_warning_of_another_kind_is_heard(quiet):
    with pytest.warns(RuntimeWarning, match="overflow"), quiet():
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)


@pytest.mark.parametrize("bars", [True, False])
def test_loading_leaves_transformers_as_it_was_even_after_an_error(bars):
    logger = logging.getLogger("transformers")
    level, before = logger.level, transformers_logging.is_progress_bar_enabled()
    change = {True: transformers_logging.enable_progress_bar, False: transformers_logging.disable_progress_bar}

    def fail():
        with quiet_loading():
            assert logger.level == logging.CRITICAL
            assert not transformers_logging.is_progress_bar_enabled()
            raise KeyError("weights")

    try:
        change[bars]()
        with pytest.raises(KeyError):
            fail()
        assert logger.level == level
        assert transformers_logging.is_progress_bar_enabled() == bars
    finally:
        change[before]()


def test_advice_to_install_kernels_that_nobody_here_uses_is_not_heard(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward: %s. Please `pip install kernels`", "no module")
    logger.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]
