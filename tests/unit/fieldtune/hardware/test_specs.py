"""Defaults of a profile are what a machine of which nothing is known can do."""

import dataclasses

import pytest

from builders import altered, full_profile
from fieldtune.hardware.specs import CpuSpec, DetectSpec, ExecutionSpec, MemorySpec, RuntimeSpec, TrainingSpec


def test_channels_are_groups_of_what_is_computed_at_once():
    limits = full_profile().accelerator.limits
    assert limits.channels_max == 255 * 16
    assert dataclasses.replace(limits, channel_groups_max=2, input_channel_parallel=32).channels_max == 64


def test_nothing_is_demanded_by_default():
    execution = ExecutionSpec()
    assert (execution.provider, execution.on_missing) == ("CPUExecutionProvider", "error")
    assert (execution.min_offload, execution.max_partitions, execution.simulate_latency) == (0.0, None, False)
    assert CpuSpec() == CpuSpec(architecture="any", model="", cores=None, frequency_hz=None, gflops=None, features=())
    assert (MemorySpec().total_bytes, RuntimeSpec().threads, TrainingSpec().max_length) == (None, 0, None)
    assert DetectSpec() == DetectSpec(device_tree=(), pci_ids=())


@pytest.mark.parametrize("part", ["cpu", "memory", "execution", "runtime", "training", "accelerator", "detect"])
def test_a_profile_does_not_change(part):
    made = full_profile()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, part, None)
    assert altered(made, name="other").accelerator is made.accelerator
