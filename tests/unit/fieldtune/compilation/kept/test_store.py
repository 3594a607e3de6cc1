import dataclasses
import json
import os
import stat
import threading

import pytest

from fieldtune.compilation.kept.entry import ENTRY_NAME, read_entry, write_entry
from fieldtune.compilation.kept.store import CompiledStore
from fieldtune.errors import CompileError, OutputError

COMMAND = "fieldtune compile BUNDLE --profile vek280"


@pytest.fixture
def store(tmp_path):
    return CompiledStore(tmp_path / "cache" / "compiled")


@pytest.fixture
def put(store, entry):
    """The function that puts an entry with these files into the store."""

    def make(files=(("cache/compiled.xmodel", b"compiled"), ("cache/context.json", b"{}")), **changes):
        key = changes.get("key") or entry(store.root).key
        with store.staging(key) as folder:
            for name, data in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            made = entry(folder, **changes)
            write_entry(made, folder)
        return made

    return make


def test_an_entry_comes_back_as_it_was(store, put, key):
    made = put()
    assert store.find(key) == made
    assert made.seconds == 61.5
    assert made.report.offload == 0.9
    assert set(made.files) == {"cache/compiled.xmodel", "cache/context.json"}
    assert store.find(dataclasses.replace(key, runtime="1.31.1")) is None


def test_everything_is_the_owners_alone(store, put, key):
    put()
    for folder in (store.root, store.folder(key)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_interrupted_leaves_nothing(store, key):
    def interrupted():
        with store.staging(key) as folder:
            (folder / "half").write_bytes(b"h")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(store.root.iterdir()) == []
    assert store.find(key) is None


def test_an_entry_is_replaced_whole(store, put, key):
    put()
    put(files=[("context.onnx", b"new")], context="context.onnx")
    assert set(store.find(key).files) == {"context.onnx"}
    assert [path.name for path in store.root.iterdir()] == [store.folder(key).name]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda folder: (folder / "cache/compiled.xmodel").write_bytes(b"Compiled"),
            r"cache/compiled\.xmodel: altered",
        ),
        (lambda folder: (folder / "cache/compiled.xmodel").unlink(), r"cache/compiled\.xmodel: missing"),
        (lambda folder: (folder / "cache/context.json").unlink(), r"cache/context\.json: missing"),
        (lambda folder: (folder / ENTRY_NAME).unlink(), r"entry\.json: cannot be read"),
        (lambda folder: (folder / ENTRY_NAME).write_text("{"), "not JSON"),
        (lambda folder: (folder / ENTRY_NAME).write_text("{}"), "'format_version' is missing"),
    ],
    ids=["altered", "missing", "a report missing", "no entry.json", "truncated", "empty"],
)
def test_a_damaged_entry_is_refused(store, put, key, damage, says):
    put()
    damage(store.folder(key))
    with pytest.raises(CompileError, match=says) as caught:
        store.find(key)
    assert "compile again with --overwrite" in str(caught.value)


def test_reports_that_a_provider_writes_again_are_no_damage(store, put, key):
    put()
    (store.folder(key) / "cache/context.json").write_bytes(b'{"opened": 2}')
    assert store.find(key) is not None


@pytest.mark.parametrize("change", ["identity", "key", "report", "format_version"])
def test_an_entry_that_was_edited_is_refused(store, put, key, change):
    put()
    path = store.folder(key) / ENTRY_NAME
    data = json.loads(path.read_text())
    if change == "key":
        data["key"]["driver"] = "another"
    elif change == "report":
        del data["report"]["partitions"]
    else:
        data[change] = "9.0"
    path.write_text(json.dumps(data))
    with pytest.raises(CompileError, match=r"entry\.json"):
        store.find(key)


def test_an_entry_in_another_ones_place_is_refused(store, put, key):
    put()
    other = dataclasses.replace(key, driver="xrt 2.16.0")
    store.folder(key).rename(store.folder(other))
    with pytest.raises(CompileError, match="holds another compiled form than its name says"):
        store.find(other)


def test_nothing_compiled_says_what_to_run(store, key, bundle):
    made = bundle({})
    with pytest.raises(CompileError) as caught:
        store.require(key, made, COMMAND)
    assert str(caught.value) == (f"{made.root}: its prefix is not compiled for DPUCV2DX8G_ISA1_C20B14; run: {COMMAND}")


def test_a_stale_entry_of_the_bundle_is_refused_with_what_differs(store, put, key, bundle):
    made = bundle({})
    put(bundle=made.root.resolve())
    current = dataclasses.replace(key, model="0" * 64, driver="xrt 2.16.0")
    with pytest.raises(CompileError) as caught:
        store.require(current, made, COMMAND)
    assert str(caught.value) == (
        f"{made.root}: what was compiled for DPUCV2DX8G_ISA1_C20B14 at 2026-01-02T03:04:05+00:00 does not belong to "
        f"what is to run now; run: {COMMAND}"
        f"\n  - model (the graph and its weights): stored {key.model[:12]}…, now 000000000000…"
        "\n  - driver: stored xrt 2.15.0, zocl 2.15.0, now xrt 2.16.0"
    )


def test_of_several_stale_entries_the_nearest_is_compared(store, put, key, bundle):
    made = bundle({})
    far = dataclasses.replace(key, driver="a", runtime="1.15.0", provider_version="b")
    put(bundle=made.root.resolve(), key=far)
    put(bundle=made.root.resolve())
    with pytest.raises(CompileError) as caught:
        store.require(dataclasses.replace(key, runtime="1.17.0"), made, COMMAND)
    assert str(caught.value).endswith("\n  - ONNX Runtime: stored 1.16.0, now 1.17.0")


def test_an_emulations_entry_is_foreign_to_the_hardware(store, put, key, bundle):
    put(key=dataclasses.replace(key, emulated=True), bundle="/the/desk")
    with pytest.raises(CompileError, match="emulated: stored yes, now no"):
        store.require(key, bundle({}), COMMAND)


def test_an_entry_of_another_bundle_or_target_is_not_compared(store, put, key, bundle):
    put(bundle="/another")
    with pytest.raises(CompileError, match="is not compiled for"):
        store.require(dataclasses.replace(key, model="0" * 64), bundle({}), COMMAND)
    with pytest.raises(CompileError, match="is not compiled for DPUCZDX8G"):
        store.require(dataclasses.replace(key, target="DPUCZDX8G"), bundle({}), COMMAND)


def test_the_list_has_entries_damaged_and_unfinished_ones(store, put, key):
    put()
    damaged = dataclasses.replace(key, runtime="1.17.0")
    put(key=damaged)
    (store.folder(damaged) / ENTRY_NAME).write_text("{")
    with store.staging(dataclasses.replace(key, runtime="1.18.0")):
        found = store.list()
    assert [bool(stored.entry) for stored in found].count(True) == 1
    assert any(stored.fault.startswith(f"{store.folder(damaged)}/{ENTRY_NAME}: ") for stored in found)
    assert any(stored.fault.startswith("not finished") for stored in found)
    whole = next(stored for stored in found if stored.entry)
    assert whole.size_bytes == 10 + (store.folder(key) / ENTRY_NAME).stat().st_size
    for stored in store.list():
        store.delete(stored)
    assert list(store.root.iterdir()) == []
    assert store.list() == []


def test_listing_and_clearing_beside_a_process_that_compiles(store, put, key, bundle):
    """Its folders and files vanish while they are counted; that is neither an error nor an entry."""
    put()
    other, done = dataclasses.replace(key, target="DPUCZDX8G"), threading.Event()

    def compiles():
        while not done.is_set():
            with store.staging(other) as folder:
                for number in range(20):
                    (folder / f"{number}.bin").write_bytes(b"n")
                for path in folder.iterdir():
                    path.unlink()

    thread = threading.Thread(target=compiles)
    thread.start()
    try:
        for _ in range(200):
            found = store.list()
            assert [stored.folder for stored in found if stored.entry] == [store.folder(key)]
            with pytest.raises(CompileError, match="does not belong to what is to run now"):
                store.require(dataclasses.replace(key, runtime="1.17.0"), bundle({}), COMMAND)
    finally:
        done.set()
        thread.join()


def test_what_is_gone_already_is_deleted(store, put):
    put()
    (stored,) = store.list()
    store.delete(stored)
    store.delete(stored)
    assert store.list() == []


def test_a_store_that_is_not_there_is_empty(store):
    assert store.list() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written(tmp_path, key):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError), CompiledStore(tmp_path / "closed" / "compiled").staging(key):
        raise AssertionError("the block must not run")


def test_read_entry_needs_no_other_file(store, put, key):
    made = put()
    (store.folder(key) / "cache/compiled.xmodel").unlink()
    assert read_entry(store.folder(key)) == made
