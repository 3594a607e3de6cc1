import dataclasses
import json
import os

import pytest

from builders import adapter_card, rewrite
from fieldtune.adapters.adapter import AdapterCard
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.errors import InvalidAdapter, OutputError, UnsupportedFormat
from mutations import faults_unnamed, unknown_unnamed


@pytest.fixture
def folder(tmp_path, adapter):
    write_adapter(adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_what_is_written_is_what_is_read(folder, adapter):
    found = read_adapter(folder)
    assert list(found.config.items()) == list(adapter.config.items())
    assert dict(found.tensors.tensors) == dict(adapter.tensors.tensors)
    assert found.tensors.metadata == {"format": "pt"}
    assert found.card == adapter.card
    assert found.where == str(folder)


def test_an_adapter_without_a_card_stays_without_one(tmp_path, adapter):
    write_adapter(dataclasses.replace(adapter, card=None), tmp_path / "a")
    assert not (tmp_path / "a" / "fieldtune.json").exists()
    assert read_adapter(tmp_path / "a").card is None


def test_the_card_carries_training_and_an_unknown_base(tmp_path, adapter):
    card = AdapterCard(base_sha256=None, task="text-generation", labels=(), training={"steps": 20, "loss": 0.5})
    write_adapter(dataclasses.replace(adapter, card=card), tmp_path / "a")
    assert read_adapter(tmp_path / "a").card == card


def test_the_readme_quotes_the_base(tmp_path, adapter):
    config = {**adapter.config, "base_model_name_or_path": 'a"b: [c'}
    write_adapter(dataclasses.replace(adapter, config=config), tmp_path / "a")
    lines = (tmp_path / "a" / "README.md").read_text().splitlines()
    assert lines[:3] == ["---", 'base_model: "a\\"b: [c"', "library_name: peft"]


def test_an_empty_folder_is_filled_and_a_full_one_is_refused_and_left_alone(tmp_path, adapter):
    (tmp_path / "empty").mkdir()
    write_adapter(adapter, tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("keep me")
    with pytest.raises(OutputError, match="full: is not empty"):
        write_adapter(adapter, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note"]


def test_a_path_that_is_a_file(tmp_path, adapter):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file: the adapter cannot be written"):
        write_adapter(adapter, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("exists", [True, False])
def test_a_disk_that_fills_up_leaves_no_half_adapter(tmp_path, adapter, monkeypatch, exists):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    if exists:
        (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a: the adapter cannot be written \(No space left on device\)"):
        write_adapter(adapter, tmp_path / "a")
    assert list(tmp_path.rglob("*")) == ([tmp_path / "a"] if exists else [])


def test_folders_that_are_not_adapters(tmp_path):
    with pytest.raises(InvalidAdapter, match=r"none: not a PEFT adapter \(no such folder\)"):
        read_adapter(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidAdapter, match=r"file: not a PEFT adapter \(a file\)"):
        read_adapter(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidAdapter, match=r"empty: not a PEFT adapter \(no adapter_config.json in it\)"):
        read_adapter(tmp_path / "empty")
    with pytest.raises(InvalidAdapter, match=r"nnn: cannot be read \(File name too long\); name the folder that PEFT"):
        read_adapter(tmp_path / ("n" * 300))


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe{}", b"[" * 100_000], ids=["truncated", "not UTF-8", "too deep"])
def test_a_config_that_is_not_json(folder, text):
    (folder / "adapter_config.json").write_bytes(text)
    with pytest.raises(InvalidAdapter, match=r"adapter_config.json: not JSON \(.+\); copy the adapter again"):
        read_adapter(folder)


def test_a_config_that_is_not_a_table_or_not_lora(folder):
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(InvalidAdapter, match=r"adapter_config.json: expected a table"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidAdapter, match="the key 'peft_type' is missing"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "OFT"}')
    with pytest.raises(InvalidAdapter, match=r"'peft_type' is 'OFT'; expected .*'LORA'"):
        read_adapter(folder)


def test_pickles_are_never_read(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidAdapter, match=r"has adapter_model.bin, a pickle, which is never read"):
        read_adapter(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(InvalidAdapter, match=r"no adapter_model.safetensors in it"):
        read_adapter(folder)


def test_truncated_tensors(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidAdapter, match=r"adapter_model.safetensors: not a whole safetensors file"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
        ("arrow_config", {"top_k": 3}),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1.0}),
        ("monteclora_config", {"num_samples": 8}),
        ("velora_config", {"num_groups": 64}),
        ("trainable_token_indices", {"embed_tokens": [0]}),
        ("target_parameters", ["experts.down_proj"]),
        ("layer_replication", [[0, 4]]),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_settings_that_change_the_arithmetic_are_refused_by_name(folder, key, value):
    rewrite(folder / "adapter_config.json", **{key: value})
    with pytest.raises(InvalidAdapter, match=f"settings that are not supported on the device\n  - {key}"):
        read_adapter(folder)


def test_every_such_setting_is_listed(folder):
    rewrite(folder / "adapter_config.json", use_qalora=True, layer_replication=[[0, 1]], init_lora_weights="pissa")
    with pytest.raises(InvalidAdapter) as caught:
        read_adapter(folder)
    assert [line[4:].split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "use_qalora",
        "layer_replication",
        "init_lora_weights 'pissa'",
    ]


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initializations_that_leave_the_base_alone_are_read(folder, init):
    rewrite(folder / "adapter_config.json", init_lora_weights=init, lora_dropout=0.5)
    assert read_adapter(folder).config["init_lora_weights"] == init


def test_cards_of_other_versions(folder):
    rewrite(folder / "fieldtune.json", format_version="2.0")
    with pytest.raises(UnsupportedFormat, match=r"fieldtune.json: format_version is 2.0; this fieldtune reads 1.x"):
        read_adapter(folder)
    rewrite(folder / "fieldtune.json", format_version="1.7", novelty=1)
    with pytest.warns(UserWarning, match="format 1.7 is later than 1.0"):
        assert read_adapter(folder).card.labels == ("negative", "positive")


def test_cards_with_faults(folder):
    rewrite(folder / "fieldtune.json", label="x")
    with pytest.raises(InvalidAdapter, match=r"fieldtune.json: unknown key 'label'"):
        read_adapter(folder)
    (folder / "fieldtune.json").write_text('{"format_version": "1.0", "task": "t", "labels": "ab"}')
    with pytest.raises(InvalidAdapter, match=r"'labels' is a string \('ab'\); expected a list"):
        read_adapter(folder)


CARD = json.loads(adapter_card(training={"steps": 20}).to_json())


@pytest.fixture
def read_card(folder):
    """The function that reads an adapter with another card."""

    def read(data):
        (folder / "fieldtune.json").write_text(json.dumps(data), encoding="utf-8")
        return read_adapter(folder).card

    return read


def test_every_key_of_a_card_that_is_missing_or_of_another_kind_is_named(folder, read_card):
    assert read_card(CARD) == adapter_card(training={"steps": 20})
    where = str(folder / "fieldtune.json")
    optional = ["base_sha256", "training"]
    free = [("training",)]
    assert faults_unnamed(CARD, read_card, InvalidAdapter, where, free=free, optional=optional) == []
    assert unknown_unnamed(CARD, read_card, InvalidAdapter, where, free=free) == []


def test_labels_that_could_not_be_written_again_are_refused(read_card):
    with pytest.raises(InvalidAdapter, match=r"fieldtune\.json: 'labels' holds a string \('\\ud83d'\); expected text"):
        read_card({**CARD, "labels": ["a", "\ud83d"]})


@pytest.mark.parametrize("name", ["fieldtune.json", "adapter_model.safetensors"])
def test_files_that_are_folders(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InvalidAdapter, match=rf"{name}: cannot be read \(Is a directory\)|no {name} in it"):
        read_adapter(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no UTF-8", "too deep"])
def test_a_card_that_is_no_json(folder, text):
    (folder / "fieldtune.json").write_bytes(text)
    with pytest.raises(InvalidAdapter, match=r"fieldtune\.json: not JSON \(.+\); copy the adapter again"):
        read_adapter(folder)
