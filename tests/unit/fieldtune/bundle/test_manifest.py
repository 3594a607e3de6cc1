"""What a manifest says of itself, and its text."""

import json

import pytest

from builders import full_manifest, graph_spec, layout, manifest, parameter, tensor_spec
from fieldtune.bundle.manifest import PAST, SUFFIX_GRAPHS, WHOLE_GRAPHS, decodes


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [
        ({}, False),
        ({"infer": graph_spec(inputs=(tensor_spec("input_ids", "batch", "sequence"),))}, False),
        ({"infer": graph_spec(inputs=(tensor_spec(f"{PAST}0.key", "batch", 2, "past_sequence", 8),))}, True),
        ({"eval": graph_spec(inputs=(tensor_spec(f"{PAST}0.key", "batch", 2, "past_sequence", 8),))}, False),
    ],
    ids=["no graph", "no cache", "a cache", "another graph's"],
)
def test_a_bundle_writes_token_by_token_where_infer_takes_a_cache(graphs, expected):
    assert decodes(manifest(graphs=graphs)) is expected


def test_the_text_begins_with_its_format_and_lists_the_layout():
    made = manifest(layout=layout(parameter("q.b", {"rank": 2, "in_features": 3})))
    text = made.to_json()
    assert text.startswith('{\n "format_version": "2.0",\n')
    assert text.endswith("\n}\n")
    (one,) = json.loads(text)["layout"]
    assert (one["key"], one["axes"], one["shape"], one["offset"]) == ("q.b", ["rank", "in_features"], [2, 3], 0)


def test_text_stays_readable():
    assert '"größer"' in manifest(labels=("kleiner", "größer")).to_json()


def test_official_artifacts_name_all_their_files():
    assert full_manifest().ort_training.paths == ("t", "e", "o", "c", "n")


def test_every_whole_graph_has_its_suffix():
    assert list(SUFFIX_GRAPHS) == list(WHOLE_GRAPHS)
    assert set(SUFFIX_GRAPHS.values()).isdisjoint(WHOLE_GRAPHS)
