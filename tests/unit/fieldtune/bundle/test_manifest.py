"""The manifest's layout: facts of each tensor, written and read; bundles of an earlier format in one line."""

import json

import pytest

from fieldtune.bundle.layout import BaseWeight, Layout, ParameterSpec
from fieldtune.bundle.manifest import BaseModelSpec, Manifest, TaskSpec, TextSpec
from fieldtune.bundle.manifest_reading import read_manifest
from fieldtune.errors import InvalidBundle, UnsupportedFormat

LAYOUT = Layout(
    (
        ParameterSpec(
            key="q.m", module="q", axes=("out_features",), shape=(4,), offset=0, decay=False,
            weight=BaseWeight(name="q.weight", axes=("out_features", "in_features")),
        ),
        ParameterSpec(
            key="q.b", module="q", axes=("out_features", "rank"), shape=(4, 2), offset=4, decay=True, transposed=True,
            scaled=True,
        ),
        ParameterSpec(
            key="head.bias", module="head", axes=("features",), shape=(2,), offset=12, decay=False, optional=True,
            replaces="head.bias",
        ),
    )
)  # fmt: skip
MANIFEST = Manifest(
    base=BaseModelSpec(id="b", revision=None, sha256="a" * 64, architecture="A", licence=None, dtypes={}),
    task=TaskSpec(name="text-classification", labels=("no", "yes")),
    method="zeta",
    text=TextSpec(max_length=8, pad_token_id=0, stop_token_ids=(), special_tokens={}, chat_template=None),
    image=None, peft_config={}, layout=LAYOUT, graphs={}, parity=(), tools={}, files={},
)  # fmt: skip


def changed(**changes):
    data = json.loads(MANIFEST.to_json())
    data["layout"][1] |= changes
    return json.dumps(data)


def test_what_is_written_is_read():
    assert read_manifest(MANIFEST.to_json()) == MANIFEST
    assert [parameter.rank_axis for parameter in LAYOUT.parameters] == [None, 1, None]
    assert LAYOUT.rank == 2


def test_an_earlier_format_is_refused_in_one_line_that_says_how_to_build_it_again():
    text = json.dumps({"format_version": "1.3", "layout": [{"role": "saved"}]})
    with pytest.raises(UnsupportedFormat) as caught:
        read_manifest(text, "b/manifest.json")
    assert str(caught.value) == (
        "b/manifest.json: format_version is 1.3; this fieldtune reads 2.x: build it again: fieldtune-offline build "
        "MODEL --task TASK --out DIR"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ["rank"]}, "'q.b' has 1 'axes' and a 'shape' of 2"),
        ({"axes": ["rank", "rank"]}, "'q.b' has two axes of one name: rank, rank"),
        ({"axes": ["a", "b", "c"], "shape": [2, 2, 2]}, "'q.b' is 'transposed' and has 3 axes; expected 2"),
        ({"scaled": 1}, "'scaled' is an integer"),
        ({"role": "lora_b"}, "unknown key 'role'"),
        ({"weight": {"name": "q.weight"}}, "the key 'axes' is missing"),
    ],
)
def test_facts_that_do_not_fit_each_other(changes, message):
    with pytest.raises(InvalidBundle, match=message):
        read_manifest(changed(**changes))
