"""Whatever profile, runtime and request meet, the choice is one that can run, or an error that explains itself."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldtune.errors import ProviderUnavailable
from fieldtune.hardware import HardwareProfile, load_profile
from fieldtune.hardware.machine import usable_cores
from fieldtune.runtime.providers import choose_provider

CPU = "CPUExecutionProvider"
PROVIDERS = (CPU, "CUDAExecutionProvider", "VitisAIExecutionProvider", "NobodysExecutionProvider")


@st.composite
def profiles(draw: st.DrawFn) -> HardwareProfile:
    base = load_profile(draw(st.sampled_from(["cpu-generic", "vek280"])))
    return dataclasses.replace(
        base,
        cpu=dataclasses.replace(base.cpu, cores=draw(st.none() | st.integers(1, 64))),
        execution=dataclasses.replace(
            base.execution,
            provider=draw(st.sampled_from(PROVIDERS)),
            options=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
            on_missing=draw(st.sampled_from(["error", "emulate", "cpu"])),
        ),
        runtime=dataclasses.replace(
            base.runtime,
            threads=draw(st.integers(0, 64)),
            prepacking=draw(st.booleans()),
            arena=draw(st.booleans()),
            memory_pattern=draw(st.booleans()),
            graph_optimization=draw(st.sampled_from(["all", "extended", "basic", "off"])),
        ),
    )


AVAILABLE = st.lists(st.sampled_from(PROVIDERS), unique=True)
REQUESTS = st.none() | st.sampled_from(PROVIDERS)


POLICIES = st.none() | st.sampled_from(["error", "emulate", "cpu"])


def _stands_in(profile, available, policy):
    """Whether the CPU may take the place of a provider that is missing."""
    return CPU in available and (policy == "cpu" or (policy == "emulate" and profile.accelerator is not None))


@given(profiles(), AVAILABLE, REQUESTS, POLICIES)
def test_a_choice_can_run_and_an_error_names_what_was_wanted_and_found(profile, available, requested, asked):
    wanted = requested or profile.execution.provider
    falls_back = requested is None and _stands_in(profile, available, asked or profile.execution.on_missing)
    if wanted not in available and not falls_back:
        with pytest.raises(ProviderUnavailable) as caught:
            choose_provider(profile, available, requested, asked)
        assert all(name in str(caught.value) for name in (wanted, *available))
        return
    choice = choose_provider(profile, available, requested, asked)
    assert choice.provider == (wanted if wanted in available else CPU)
    assert choice.requested == wanted
    own = choice.provider == profile.execution.provider
    assert choice.options == (profile.execution.options if own else {})


@given(profiles(), AVAILABLE, REQUESTS, POLICIES)
def test_a_provider_other_than_the_wanted_one_is_never_silent(profile, available, requested, asked):
    wanted = requested or profile.execution.provider
    try:
        choice = choose_provider(profile, available, requested, asked)
    except ProviderUnavailable:
        return
    policy = asked or profile.execution.on_missing
    replaced = choice.provider != wanted
    assert choice.emulated == (replaced and policy == "emulate")
    if replaced:
        assert wanted in choice.reason
        assert f'on_missing is "{policy}"' in choice.reason
        assert ("the CPU emulates" in choice.reason) == choice.emulated


@given(profiles())
def test_session_settings_are_the_profiles(profile):
    settings = choose_provider(profile, PROVIDERS).session_settings
    runtime = profile.runtime
    assert settings.intra_op_threads == (runtime.threads or min(profile.cpu.cores or 0, usable_cores()))
    assert (settings.prepacking, settings.arena) == (runtime.prepacking, runtime.arena)
    assert settings.memory_pattern == runtime.memory_pattern
    assert settings.graph_optimization == runtime.graph_optimization
