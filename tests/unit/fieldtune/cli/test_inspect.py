"""``fieldtune inspect``: what it shows of bundles and adapters, and what it does not take for one."""

import dataclasses
import json

import pytest

from builders import (
    adapter_card,
    base_model,
    graph_spec,
    image_spec,
    lora_adapter,
    lora_manifest,
    manifest,
    merged_manifest,
    node,
    node_table,
    table_text,
    tensor_spec,
    text_spec,
    write_bundle,
)
from fieldtune.adapters.directory import write_adapter
from fieldtune.bundle.manifest import PackedSpec, ParitySpec
from fieldtune.cli import main


@pytest.fixture
def bundle(tmp_path):
    """The function that writes a bundle of one graph with these operators; returns its folder."""

    def make(described, operators=("MatMul", "MatMul", "Add"), **graph):
        spec = graph_spec("infer", **graph)
        table = node_table(*(node(op) for op in operators), graph="infer")
        contents = {spec.path: b"graph", spec.nodes: table_text(table).encode()}
        if described.text:
            contents["tokenizer.json"] = b"{}"
        described = dataclasses.replace(described, graphs={"infer": spec})
        return str(write_bundle(tmp_path / "bundle", described, contents).root)

    return make


@pytest.fixture
def shown(capsys):
    """The function from a path to the rows that are printed of it, their cells joined by one space."""

    def run(path):
        assert main(["inspect", path]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]

    return run


def test_a_bundle_for_texts(bundle, shown):
    figures = {"loss_relative": 1e-6, "gradient_relative": 2e-5, "inference_relative": 3e-7}
    parity = ParitySpec(batch=2, sequence=8, vanishing_gradients=(), **figures)
    path = bundle(
        lora_manifest(
            base=base_model(id="some/[base]"), labels=("[bad]", "good"), parity=(parity,), tools={"torch": "2"}
        ),
        inputs=(tensor_spec("input_ids", "batch", "sequence", dtype="int64"),),
        outputs=(tensor_spec("logits", "batch", 2),),
        adapter_inputs=(tensor_spec("a", "rank", 3), tensor_spec("b", 4, "rank")),
    )
    lines = shown(path)
    for line in (
        f"Bundle {path}",
        "base model some/[base]",
        "licence not known",
        "base precision float32",
        "labels [bad], good",
        "longest text 8 tokens",
        "method LoRA",
        "rank 2",
        "alpha 8",
        "files 3, 0.0 MB; every digest is right",
        "built with torch 2",
        "infer 18 8 ≥ 1.16.3 3 2 MatMul, 1 Add",
        "in input_ids int64 (batch, sequence)",
        "in 2 adapter tensors, which have defaults float32 any rank",
        "out logits float32 (batch, 2)",
        "2 8 1.0e-06 2.0e-05 3.0e-07",
    ):
        assert line in lines, line


def test_a_packed_base_says_how_its_matrices_are_packed(bundle, shown):
    int4 = "int4/64/asymmetric"
    packed = PackedSpec(
        recipe=int4,
        matrices={"words": "int8", "query": int4, "value": int4},
        kept={"patches": "a convolution"},
        cost=(),
    )
    lines = shown(bundle(manifest(base=base_model(packed=packed))))
    assert f"base precision {int4}; 3 matrices packed: 2 as {int4}, 1 as int8; 1 in float32" in lines
    packed = dataclasses.replace(packed, kept={})
    lines = shown(bundle(manifest(base=base_model(packed=packed))))
    assert f"base precision {int4}; 3 matrices packed: 2 as {int4}, 1 as int8" in lines


def test_a_cache_of_a_decoder_is_one_line(bundle, shown):
    cache = [
        tensor_spec(f"past.{layer}.{part}", "batch", 2, "past", 4) for layer in (0, 1) for part in ("key", "value")
    ]
    lines = shown(bundle(manifest(task="text-generation", labels=()), inputs=(tensor_spec("input_ids"), *cache)))
    assert "in past.0.key and 3 more float32 (batch, 2, past, 4)" in lines
    assert not any(line.startswith("labels") for line in lines)


def test_a_bundle_for_images(bundle, shown):
    image = image_spec(height=8, width=6, resize=9, mean=(0.5, 0.25, 0.125))
    lines = shown(bundle(manifest(task="image-classification", image=image)))
    assert "images 8 pixels high, 6 wide, RGB" in lines
    assert "resized shorter edge to 9, then cut around the centre; bilinear" in lines
    assert "mean of each channel 0.5, 0.25, 0.125" in lines
    assert "images 4 pixels high, 4 wide, grey" in shown(
        bundle(manifest(task="image-classification", image=image_spec(4, 4, 1)))
    )


def test_a_merged_bundle_says_of_what_it_is(bundle, shown):
    lines = shown(bundle(merged_manifest()))
    assert f"merged adapter a (sha256 {'0' * 12}…)" in lines
    assert "Largest differences from the graphs that it was merged from" in lines
    assert "2 - 1.0e-06 1.0e-06" in lines


def test_for_programs_a_bundle_has_all_its_facts(bundle, capsys):
    assert main(["inspect", bundle(manifest(text=text_spec(chat_template="{{ messages }}"))), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["parameters"], found["graphs"]["infer"]["operators"]) == (
        "bundle",
        0,
        {"MatMul": 2, "Add": 1},
    )
    assert found["text"] == {"max_length": 8, "chat_template": True}


def test_an_adapter_and_how_it_was_trained(tmp_path, shown):
    made = dataclasses.replace(lora_adapter(), card=adapter_card(training={"steps": 12, "note": "[x]"}))
    write_adapter(made, tmp_path)
    lines = shown(str(tmp_path))
    for line in ("base model some/base", "labels negative, positive", "tensors 8 (8 F32)", "steps 12", "note [x]"):
        assert line in lines, line
    # 2·3 + 4·2 of the linear layer, 4 and 4 of its biases, 2·5 + 3·2 of the embedding, 2 + 2·4 of the head.
    assert "parameters 48, 0.00 MB" in lines


def test_a_profile(capsys):
    assert main(["inspect", "kv260", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["profile"]["name"]) == ("profile", "kv260")


def test_what_is_none_of_them(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    assert "neither manifest.json nor adapter_config.json is in it" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "lost")]) == 1
    assert "(no such folder or profile)" in capsys.readouterr().err


def test_a_node_table_that_is_none_is_a_corrupt_file(tmp_path, capsys):
    spec = graph_spec("infer")
    described = manifest(image=image_spec(), graphs={"infer": spec})
    folder = write_bundle(tmp_path / "bundle", described, {spec.path: b"graph", spec.nodes: b"[]"}).root
    assert main(["inspect", str(folder)]) == 1
    assert "infer.nodes.json: not a node table" in capsys.readouterr().err
