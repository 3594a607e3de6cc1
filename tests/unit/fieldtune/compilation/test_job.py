"""How a provider is told to keep what it compiles in the store, stack by stack."""

from pathlib import Path

import pytest

from builders import altered
from fieldtune.compilation.job import accelerator_choice, check_environment
from fieldtune.errors import CompileError
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider

CPU, VITIS = "CPUExecutionProvider", "VitisAIExecutionProvider"
ENTRY = Path("/entry")


def _choice(profile, available=(VITIS, CPU), on_missing=None):
    return choose_provider(profile, available, None, on_missing)


def test_the_stacks_own_options_lead_into_the_entry():
    profile = load_profile("vek280")
    found = accelerator_choice(profile, _choice(profile), ENTRY).options
    assert found == {"config_file": "/etc/vaip_config.json", "cacheDir": "/entry", "cacheKey": "cache"}
    profile = load_profile("ryzen-ai-strix")
    found = accelerator_choice(profile, _choice(profile), ENTRY).options
    assert found == {
        **profile.execution.options,
        "cache_dir": "/entry",
        "cache_key": "cache",
        "enable_cache_file_io_in_mem": "0",
    }


def test_the_profiles_own_cache_folder_does_not_count():
    profile = load_profile("vek280")
    options = {**profile.execution.options, "cacheDir": "/tmp/mine"}
    profile = altered(profile, execution={"options": options})
    assert accelerator_choice(profile, _choice(profile), ENTRY).options["cacheDir"] == "/entry"


def test_an_emulation_keeps_nothing_and_has_no_options():
    profile = load_profile("vek280")
    assert accelerator_choice(profile, _choice(profile, (CPU,), "emulate"), ENTRY).options == {}


@pytest.mark.parametrize(
    ("asked", "expected"), [("all", "basic"), ("extended", "basic"), ("basic", "basic"), ("off", "off")]
)
def test_nodes_keep_the_names_by_which_they_are_read_back(asked, expected):
    profile = load_profile("vek280")
    profile = altered(profile, runtime={"graph_optimization": asked})
    settings = accelerator_choice(profile, _choice(profile), ENTRY).session_settings
    assert settings.graph_optimization == expected


@pytest.mark.parametrize("name", ["XLNX_ENABLE_CACHE", "XLNX_CACHE_DIR"])
def test_variables_that_lead_past_the_store_are_refused(monkeypatch, name):
    profile = load_profile("vek280")
    monkeypatch.setenv(name, "0")
    with pytest.raises(
        CompileError, match=f"the environment sets {name}, by which VitisAIExecutionProvider compiles past"
    ):
        check_environment(profile, _choice(profile))
    check_environment(profile, _choice(profile, (CPU,), "emulate"))
    monkeypatch.delenv(name)
    check_environment(profile, _choice(profile))
