"""Where activations are kept and how many: a mode that has no place for them takes none."""

import pytest

from fieldtune.activations.settings import CacheSettings


@pytest.mark.parametrize(
    ("mode", "disk", "memory"),
    [("disk", 4096 << 20, 256 << 20), ("memory", 0, 256 << 20), ("off", 0, 0)],
)
def test_a_mode_decides_where_there_is_room(mode, disk, memory):
    settings = CacheSettings(activation_cache=mode)
    assert (settings.disk_bytes, settings.memory_bytes) == (disk, memory)


def test_sizes_are_in_mebibytes_and_may_be_0():
    settings = CacheSettings(cache_disk_mib=3, cache_memory_mib=0)
    assert (settings.disk_bytes, settings.memory_bytes) == (3 * 2**20, 0)


@pytest.mark.parametrize("name", ["cache_disk_mib", "cache_memory_mib"])
def test_no_size_is_negative(name):
    with pytest.raises(ValueError, match=f"{name} is -1; expected at least 0"):
        CacheSettings(**{name: -1})
