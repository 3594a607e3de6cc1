"""manifest.json: what is written is read, and every key that is missing, unknown or of another kind is named."""

import dataclasses
import json

import pytest

from builders import full_manifest, image_spec, layout, manifest, merged_manifest, parameter
from fieldtune.bundle.manifest_reading import read_manifest
from fieldtune.errors import FieldtuneError, InvalidBundle, UnsupportedFormat
from mutations import faults_unnamed, outcome, replaced, unknown_unnamed, without

FULL, MERGED = json.loads(full_manifest().to_json()), json.loads(merged_manifest().to_json())
# PEFT's own format, and tables whose keys are names.
FOREIGN = [("peft_config",), ("merged", "peft_config")]
NAMES = [
    ("tools",),
    ("base", "dtypes"),
    ("base", "packed", "matrices"),
    ("base", "packed", "kept"),
    ("text", "special_tokens"),
]
TABLES = [("graphs",), ("files",), ("targets",)]
OPTIONAL = {
    *("revision", "licence", "chat_template", "resize", "replaces", "weight", "accuracy", "after_half_up"),
    *("unmeasured", "packed", "targets", "ort_training", "split", "merged", "text", "image"),
}


def read(data):
    return read_manifest(json.dumps(data), "b/manifest.json")


def message(data, error=InvalidBundle):
    with pytest.raises(error) as caught:
        read(data)
    return str(caught.value)


@pytest.mark.parametrize(
    "made",
    [manifest(), manifest(image=image_spec(channels=1)), full_manifest(), merged_manifest()],
    ids=["least", "images", "full", "merged"],
)
def test_what_is_written_is_read(made):
    assert read_manifest(made.to_json()) == made


def test_ranks_are_found_by_the_names_of_axes():
    found = read(FULL).layout
    assert [parameter.rank_axis for parameter in found.parameters] == [None, 1, None]
    assert found.rank == 2


def test_what_may_be_left_out_is_left_out():
    data = json.loads(manifest().to_json())
    for key in ("image", "ort_training", "split", "targets", "merged"):
        del data[key]
    for key in ("revision", "licence", "packed"):
        del data["base"][key]
    del data["text"]["chat_template"]
    assert read(data) == manifest()


@pytest.mark.parametrize("tree", [FULL, MERGED], ids=["full", "merged"])
def test_every_key_that_is_missing_or_of_another_kind_is_named_with_its_place(tree):
    found = faults_unnamed(
        tree,
        read,
        InvalidBundle,
        "b/manifest.json",
        free=FOREIGN,
        names=[*NAMES, *TABLES],
        optional=OPTIONAL,
        mixed=["shape"],
    )
    assert found == []


@pytest.mark.parametrize("tree", [FULL, MERGED], ids=["full", "merged"])
def test_every_unknown_key_is_named_with_its_place(tree):
    assert unknown_unnamed(tree, read, InvalidBundle, "b/manifest.json", free=[*FOREIGN, *NAMES], names=TABLES) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("text", "max_length"), 0, "text: 'max_length' is 0; expected at least 1"),
        (("text", "pad_token_id"), -1, "text: 'pad_token_id' is -1; expected at least 0"),
        (("text", "stop_token_ids"), [-1], "text: 'stop_token_ids' is [-1]; expected sizes of at least 0"),
        (("graphs", "infer", "opset"), 0, "graphs: infer: 'opset' is 0; expected at least 1"),
        (("graphs", "infer", "ir_version"), -1, "graphs: infer: 'ir_version' is -1; expected at least 1"),
        (("graphs", "infer", "inputs", 0, "shape"), [-1], "inputs[0]: 'shape' holds -1; expected sizes"),
        (("files", "graphs/infer.onnx", "size_bytes"), -1, "'size_bytes' is -1; expected at least 0"),
        (("layout", 1, "shape"), [4, -2], "layout[1]: 'shape' is [4, -2]; expected sizes of at least 0"),
        (("layout", 1, "offset"), 5, "layout of 'q.b' starts at 5; expected 4"),
        (("layout", 1, "shape"), [3, 2], "layout of 'head.bias' starts at 12; expected 10"),
        (("layout", 1, "axes"), ["rank"], "'q.b' has 1 'axes' and a 'shape' of 2"),
        (("layout", 1, "axes"), ["rank", "rank"], "'q.b' has two axes of one name: rank, rank"),
        (("layout", 0, "transposed"), True, "'q.m' is 'transposed' and has 1 axes; expected 2"),
        (("layout", 1, "role"), "lora_b", "layout[1]: unknown key 'role'"),
        (("targets", "board", "precision"), "int4", "targets: board: 'precision' is 'int4'; expected one of xint8"),
        (("targets", "board", "activation_type"), "int4", "'activation_type' is 'int4'; expected one of int8, uint8"),
        (("targets", "board", "batch"), 0, "targets: board: 'batch' is 0; expected at least 1"),
        (("targets", "board", "calibration_examples"), 0, "'calibration_examples' is 0; expected at least 1"),
        (("targets", "board", "accuracy", "examples"), 0, "accuracy: 'examples' is 0; expected at least 1"),
        (("parity", 0, "loss_relative"), float("nan"), "parity[0]: 'loss_relative' is a number (nan)"),
        (("text",), None, "neither of text and image; expected one of them"),
        (("image",), MERGED["image"], "both of text and image; expected one of them"),
        (("split",), None, "has targets and no split"),
        (("merged",), MERGED["merged"], "an adapter is merged, and 'layout' is not empty"),
    ],
)
def test_what_is_out_of_range_or_does_not_fit_is_refused(path, value, says):
    found = message(replaced(FULL, path, value))
    assert found.startswith("b/manifest.json: ")
    assert says in found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"height": 0}, "image: 'height' is 0; expected at least 1"),
        ({"width": 0}, "image: 'width' is 0; expected at least 1"),
        ({"channels": 2}, "image: 'channels' is 2; expected 1 (grey) or 3 (RGB)"),
        ({"resize": 0}, "image: 'resize' is 0; expected at least 1"),
        ({"resample": "lanczos"}, "image: 'resample' is 'lanczos'; expected one of nearest, bilinear, bicubic"),
        ({"mean": [0.5]}, "image: 'mean' is [0.5] and 'std' [0.25, 0.25, 0.25]; expected 3 number(s) each"),
        ({"std": [1, 0, 1]}, "and no std of 0"),
    ],
)
def test_images_that_cannot_be_made(changes, says):
    assert says in message({**MERGED, "image": {**MERGED["image"], **changes}})


@pytest.mark.parametrize("graph", ["prefix", "suffix_infer", "prefix_board"])
def test_a_split_bundle_without_one_of_its_graphs(graph):
    found = message(without(FULL, ("graphs", graph)))
    assert found == f"b/manifest.json: is split, but has no graph {graph}; build the bundle again"


def test_an_earlier_format_is_refused_in_one_line_that_says_how_to_build_it_again():
    assert message({"format_version": "1.3", "layout": [{"role": "saved"}]}, UnsupportedFormat) == (
        "b/manifest.json: format_version is 1.3; this fieldtune reads 2.x: build it again: fieldtune-offline build "
        "MODEL --task TASK --out DIR"
    )


def test_a_later_format_is_refused_or_read_without_what_is_new():
    assert "this fieldtune reads 2.x: update fieldtune" in message({"format_version": "3.0"}, UnsupportedFormat)
    later = replaced(replaced(FULL, ("format_version",), "2.9"), ("layout", 0, "novelty"), 1)
    with pytest.warns(UserWarning, match=r"b/manifest\.json: format 2\.9 is later than 2\.0"):
        found = read(later)
    assert found == dataclasses.replace(full_manifest(), format_version="2.9")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[" * 100_000, manifest().to_json()[:-3]])
def test_what_is_no_manifest(text):
    found = outcome(lambda: read_manifest(text, "b/manifest.json"), FieldtuneError)
    assert found.startswith(("b/manifest.json: not JSON (", "b/manifest.json: expected a table, found "))


def test_tensors_without_elements_take_no_place():
    made = manifest(layout=layout(parameter("a", {"x": 0}), parameter("b", {"x": 2}), parameter("c", {})))
    assert [one.offset for one in read_manifest(made.to_json()).layout.parameters] == [0, 0, 2]
