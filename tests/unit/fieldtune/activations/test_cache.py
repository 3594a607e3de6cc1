import hashlib
import os
import shutil
import sys

import pytest

from fieldtune.activations.cache import ActivationCache, open_cache
from fieldtune.activations.folders import PrefixName, list_activations
from fieldtune.activations.records import ENTRY_BYTES
from fieldtune.activations.settings import CacheSettings

PREFIX = PrefixName(base="b", profile="p", graph="prefix")
RECORD_BYTES = 100_000
PER_MIB = 10
"""So many records of 100,000 bytes fit into a mebibyte."""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTUNE_CACHE", str(tmp_path))
    return tmp_path


def records(count, name=""):
    digests = [hashlib.sha256(f"{name}{number}".encode()).digest() for number in range(count)]
    return {digest: digest * (RECORD_BYTES // 32) for digest in digests}


def settings(mode="disk", disk=100, memory=0):
    return CacheSettings(activation_cache=mode, cache_disk_mib=disk, cache_memory_mib=memory)


def there(cache, wanted):
    return [cache.get(digest) == record for digest, record in wanted.items()]


def test_what_is_kept_on_disk_is_there_in_the_next_run():
    wanted = records(4)
    for hits in (0, 4):
        cache = open_cache(settings(), "identity", PREFIX)
        assert sum(there(cache, wanted)) == hits
        cache.put(wanted)
        found = cache.statistics
        cache.close()
        assert (found.mode, found.hits, found.misses, found.samples) == ("disk", hits, 4 - hits, 4)
        assert found.disk_bytes == sum(map(len, wanted.values())) + 8 + 4 * ENTRY_BYTES
        assert (found.full, found.note, found.memory_bytes) == (False, "", 0)


def test_another_prefix_has_records_of_its_own():
    one = open_cache(settings(), "one", PREFIX)
    one.put(records(2))
    other = open_cache(settings(), "other", PREFIX)
    assert there(other, records(2)) == [False, False]
    one.close()
    other.close()


def test_what_memory_does_not_hold_is_computed_again():
    cache = ActivationCache(settings("memory", memory=1))
    wanted = records(PER_MIB + 3)
    cache.put(wanted)
    # What came first stays: of a cycle, the oldest is the next one to be asked for.
    assert there(cache, wanted) == [True] * PER_MIB + [False] * 3
    found = cache.statistics
    assert (found.mode, found.samples, found.full, found.disk_bytes) == ("memory", PER_MIB, True, 0)
    assert found.memory_bytes <= 1 << 20


def test_what_the_disk_does_not_hold_may_be_in_memory():
    cache = open_cache(settings(disk=1, memory=1), "identity", PREFIX)
    wanted = records(PER_MIB + 3)
    for digest, record in wanted.items():
        cache.put({digest: record})
    assert sum(there(cache, wanted)) == PER_MIB
    assert cache.statistics.full
    assert cache.statistics.disk_bytes <= 1 << 20
    cache.close()


def test_off_keeps_nothing():
    cache = open_cache(settings("off", memory=1), "identity", PREFIX)
    cache.put(records(2))
    assert there(cache, records(2)) == [False, False]
    assert cache.statistics.samples == 0
    assert list_activations() == ()


def test_a_second_run_at_the_same_time_goes_on_in_memory():
    first = open_cache(settings(), "identity", PREFIX)
    first.put(records(2))
    with pytest.warns(UserWarning, match="in use by another process; boundary activations are kept in memory only"):
        second = open_cache(settings(memory=1), "identity", PREFIX)
    second.put(records(3))
    assert there(second, records(3)) == [True] * 3
    assert second.statistics.mode == "memory"
    assert "in use by another process" in second.statistics.note
    assert there(first, records(3)) == [True, True, False]
    first.close()


def test_the_longest_unused_prefix_makes_room_and_one_in_use_does_not():
    for number, name in enumerate(("old", "older", "used")):
        cache = open_cache(settings(), name, PrefixName(base=name, graph="prefix"))
        cache.put(records(4, name))
        cache.close()
        about = next(stored.path for stored in list_activations() if stored.prefix.base == name) / "about.json"
        os.utime(about, (1000 - number, 1000 - number))
    assert [stored.prefix.base for stored in list_activations()] == ["used", "older", "old"]
    used = open_cache(settings(), "used", PrefixName(base="used", graph="prefix"))
    os.utime(used._folder / "about.json", (1, 1))
    cache = open_cache(settings(disk=1), "new", PrefixName(base="new", graph="prefix"))
    cache.put(records(4))
    # Four of each: two prefixes have room beside each other, and the one in use stays.
    assert sorted(stored.prefix.base for stored in list_activations()) == ["new", "used"]
    cache.put(records(8))
    assert cache.statistics.full
    assert there(cache, records(8)) == [True] * 6 + [False] * 2
    assert there(used, records(4, "used")) == [True] * 4
    used.close()
    cache.close()


def keep(name, count, disk=100):
    cache = open_cache(settings(disk=disk), name, PrefixName(base=name, graph="prefix"))
    cache.put(records(count, name))
    return cache


def total_bytes():
    return sum(stored.size_bytes for stored in list_activations())


def test_a_lower_limit_holds_from_the_opening_on():
    keep("old", 3 * PER_MIB).close()
    assert total_bytes() > 2 << 20
    cache = open_cache(settings(disk=1), "old", PrefixName(base="old", graph="prefix"))
    # More than is allowed of its own begins anew; and what comes then is kept.
    assert total_bytes() < 1 << 20
    wanted = records(3 * PER_MIB, "old")
    assert not any(there(cache, wanted))
    for digest, record in wanted.items():
        cache.put({digest: record})
    assert total_bytes() <= 1 << 20
    assert cache.statistics.full
    assert sum(there(cache, wanted)) == PER_MIB
    cache.close()
    cache = open_cache(settings(disk=1), "old", PREFIX)
    assert sum(there(cache, wanted)) == PER_MIB
    cache.close()


def test_a_lower_limit_holds_for_other_prefixes_before_anything_is_written():
    keep("old", 2 * PER_MIB).close()
    used = keep("used", 2)
    cache = open_cache(settings(disk=1), "new", PREFIX)
    assert [stored.samples for stored in list_activations() if stored.samples] == [2]
    assert there(used, records(2, "used")) == [True, True]
    cache.close()
    # None at all is a limit, too; whoever wants to leave what is there has other settings.
    for mode, left in (("memory", 2), ("off", 2), ("disk", 1)):
        open_cache(settings(mode, disk=0), "new", PREFIX).close()
        assert len(list_activations()) == left
    used.close()


def test_two_runs_at_the_same_time_hold_the_limit_together():
    runs = [keep(name, 0, disk=1) for name in ("one", "other")]
    for number in range(PER_MIB):
        for name, run in zip(("one", "other"), runs, strict=True):
            run.put(records(number + 1, name))
    assert total_bytes() <= (1 << 20) + 2 * (1 << 20) // 256
    assert total_bytes() > (1 << 20) - 2 * RECORD_BYTES
    assert all(run.statistics.full for run in runs)
    assert all(run.statistics.samples >= PER_MIB // 2 - 1 for run in runs)
    for run in runs:
        run.close()


def test_half_of_the_free_disk_is_left(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=2 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for _ in range(2):
        # What is there already does not count as free, nor as taken anew.
        cache = open_cache(settings(), "identity", PREFIX)
        cache.put(records(8))
        assert cache.statistics.samples == 8
        cache.close()
    cache = open_cache(settings(), "identity", PREFIX)
    cache.put(records(30))
    assert cache.statistics.full
    assert cache.statistics.samples == 8 + PER_MIB
    cache.close()


def test_a_disk_that_fails_leaves_memory():
    cache = open_cache(settings(memory=1), "identity", PREFIX)
    cache.put(records(1))
    os.close(cache._files._data)
    read_only = os.open(cache._folder / "records.bin", os.O_RDONLY)
    cache._files._data = read_only
    with pytest.warns(UserWarning, match=r"cannot be written \(.+\); boundary activations are kept in memory only"):
        cache.put(records(3))
    assert there(cache, records(3)) == [True] * 3
    assert cache.statistics.mode == "memory"


def test_a_folder_that_cannot_be_made_leaves_memory(cache_folder):
    (cache_folder / "activations").write_text("a file")
    with pytest.warns(UserWarning, match="kept in memory only"):
        cache = open_cache(settings(memory=1), "identity", PREFIX)
    cache.put(records(1))
    assert there(cache, records(1)) == [True]


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="cache_disk_mib is -1; expected at least 0"):
        settings(disk=-1)


def test_what_only_some_systems_have_is_not_needed(monkeypatch):
    for name in ("fchmod", "getuid", "O_NOFOLLOW", "O_CLOEXEC"):
        monkeypatch.delattr(os, name)
    for hits in (0, 3):
        cache = open_cache(settings(), "identity", PREFIX)
        assert sum(there(cache, records(3))) == hits
        cache.put(records(3))
        assert cache.statistics.mode == "disk"
        cache.close()


def test_without_locks_between_processes_memory_is_what_is_left(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.warns(UserWarning, match=r"cannot be locked .+; boundary activations are kept in memory only"):
        cache = open_cache(settings(memory=1), "identity", PREFIX)
    cache.put(records(3))
    assert there(cache, records(3)) == [True] * 3
