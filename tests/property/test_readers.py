"""What is written is read, whatever it says; and a file that was changed anywhere is read, or refused by its name."""

import json
import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import (
    Graph,
    base_model,
    full_manifest,
    full_profile,
    graph_spec,
    layout,
    lora_adapter,
    lora_config,
    manifest,
    merged_manifest,
    node,
    node_table,
    parameter,
    profile,
    profile_text,
    table_text,
    tensor_spec,
    text_spec,
    toml_text,
)
from fieldtune.adapters.adapter import Adapter
from fieldtune.adapters.directory import CONFIG_NAME, read_adapter, write_adapter
from fieldtune.adapters.methods.table import method_of
from fieldtune.bundle.dimensions import dimension_sizes
from fieldtune.bundle.layout import BaseWeight, PackedWeight
from fieldtune.bundle.manifest import FileSpec, Manifest, decodes
from fieldtune.bundle.manifest_reading import read_manifest
from fieldtune.bundle.node_tables import NodeTable, Quantization, Value, parse_node_table
from fieldtune.errors import FieldtuneError
from fieldtune.files.json_form import json_text
from fieldtune.hardware.reading import read_profile, tomllib
from fieldtune.hardware.specs import CpuSpec, HardwareProfile, MemorySpec, RuntimeSpec, Source, TrainingSpec
from fieldtune.placement.flow.dataflow import trace
from mutations import at, places, replaced, without

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SIZES = st.integers(0, 2**40)
POSITIVE = st.integers(1, 2**40)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DIMS = st.lists(st.one_of(SIZES, TEXTS), max_size=3).map(tuple)

ODD = (
    2**63,
    -(2**63),
    10**400,
    float("nan"),
    float("inf"),
    -0.0,
    "\ud800",
    "../..",
    "a\0b",
    "(",
    "²",
    None,
    True,
    -1,
    [],
    {},
)
"""What readers stumble over, and a value of every kind."""
JSON = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["replace", "drop", "add"]), st.floats(0, 1), TEXTS, JSON), min_size=1, max_size=2
)


def mutated(tree, mutations):
    """A tree with another value in some place, without some key, or with a new one."""
    for change, share, key, value in mutations:
        found = list(places(tree))
        if not found:
            return tree
        path = found[int(share * (len(found) - 1))]
        if change == "drop":
            tree = without(tree, path)
        elif change == "replace":
            tree = replaced(tree, path, value)
        else:
            tables = [(), *(path for path in found if isinstance(at(tree, path), dict))]
            tree = replaced(tree, (*tables[int(share * (len(tables) - 1))], key), value)
    return tree


def read_or_refused(read, kind, where):
    """What is read, or None where that is refused in words that begin with the file; nothing else comes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a later format, and of odd patterns
        try:
            found = read()
        except FieldtuneError as error:
            assert str(error).startswith(f"{where}: ")  # noqa: PT017 - both outcomes are right
            return None
    assert isinstance(found, kind)
    return found


# Manifests.

TENSORS = st.builds(
    lambda name, shape, dtype, pad: tensor_spec(name, *shape, dtype=dtype, pad=pad),
    TEXTS,
    DIMS,
    st.sampled_from(["float32", "int64"]),
    st.integers(-100, 100),
)
PARAMETERS = st.builds(
    lambda key, axes, two, flags, replaces, weight, packed: parameter(
        key,
        axes,
        module=key,
        decay=flags[0],
        scaled=flags[1],
        optional=flags[2],
        transposed=two and len(axes) == 2,
        replaces=replaces,
        weight=weight and BaseWeight(name=weight, axes=("out_features",), packed=packed),
    ),
    TEXTS,
    st.dictionaries(TEXTS, st.integers(0, 9), max_size=3),
    st.booleans(),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.none() | TEXTS,
    st.none() | TEXTS.filter(bool),
    st.none() | st.builds(PackedWeight, recipe=TEXTS, rows=st.integers(1, 9), columns=st.integers(1, 9)),
)
GRAPHS = st.builds(
    lambda name, tensors: (name, graph_spec(name, inputs=tensors, outputs=tensors[:1], adapter_inputs=tensors[1:])),
    TEXTS,
    st.lists(TENSORS, max_size=2).map(tuple),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)
MANIFESTS = st.builds(
    lambda base, text, labels, parameters, graphs, files, settings: manifest(
        base=base_model(**base),
        text=text_spec(**text),
        labels=labels,
        layout=layout(*parameters),
        graphs=dict(graphs),
        files={name: FileSpec(sha256=name, size_bytes=size) for name, size in files.items()},
        peft_config=settings,
    ),
    st.fixed_dictionaries(
        {"id": TEXTS, "revision": st.none() | TEXTS, "dtypes": st.dictionaries(TEXTS, TEXTS, max_size=2)}
    ),
    st.fixed_dictionaries(
        {
            "max_length": POSITIVE,
            "pad_token_id": SIZES,
            "stop_token_ids": st.lists(SIZES, max_size=2).map(tuple),
            "special_tokens": st.dictionaries(TEXTS, TEXTS, max_size=2),
            "chat_template": st.none() | TEXTS,
        }
    ),
    st.lists(TEXTS, max_size=3),
    st.lists(PARAMETERS, max_size=3),
    st.lists(GRAPHS, max_size=2),
    st.dictionaries(TEXTS, SIZES, max_size=2),
    st.dictionaries(TEXTS, PLAIN, max_size=3),
)
WRITTEN_MANIFESTS = [json.loads(made.to_json()) for made in (full_manifest(), merged_manifest())]


@settings(deadline=None, max_examples=60)
@given(MANIFESTS)
def test_a_manifest_that_is_written_is_read(made):
    assert read_manifest(made.to_json()) == made


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(WRITTEN_MANIFESTS), MUTATIONS)
def test_a_manifest_that_was_changed_is_read_or_refused(tree, mutations):
    text = json.dumps(mutated(tree, mutations))
    found = read_or_refused(lambda: read_manifest(text, "m.json"), Manifest, "m.json")
    if found is not None:
        assert found.layout.size == sum(one.size for one in found.layout.parameters)
        assert found.layout.rank >= 0
        assert isinstance(decodes(found), bool)


# Node tables.


@st.composite
def tables(draw):
    """Nodes that read what is there, in a running order."""
    values = st.builds(
        lambda dtype, shape, size, value: Value(dtype=dtype, shape=shape, constant_bytes=size, value=value),
        TEXTS,
        DIMS,
        st.none() | SIZES,
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    )
    quantizations = st.builds(
        lambda scales, zero, axis, dtype: Quantization(
            scale=tuple(scales), zero_point=(zero,) * len(scales), axis=axis, dtype=dtype
        ),
        st.lists(NUMBERS, max_size=2),
        st.integers(-128, 255),
        st.none() | st.integers(-2, 3),
        TEXTS,
    )
    names = draw(st.lists(TEXTS.filter(bool), unique=True, max_size=6))
    described = {name: draw(values) for name in names}
    nodes = [
        node(
            draw(TEXTS),
            draw(st.lists(st.sampled_from(["", *names[:number]]), max_size=2)),
            [name],
            name=draw(TEXTS),
            attributes=draw(st.dictionaries(TEXTS, PLAIN, max_size=2)),
            macs=draw(DIMS),
            quantization=draw(st.none() | quantizations),
        )
        for number, name in enumerate(names[1:], start=1)
    ]
    opset = draw(st.none() | POSITIVE)
    return node_table(*nodes, graph=draw(TEXTS), opset=opset, inputs=names[:1], outputs=names[-1:], values=described)


def _written_table():
    graph = Graph()
    found = graph.conv(graph.quantize(graph.input("x", "batch", 3, 8, 8)), "stem")
    body = {"operators": ["Add"], "captured": ["x"]}
    graph.add("Loop", [found, graph.constant("half", value=0.5), ""], ("batch*sequence", "?"), body=body)
    return json.loads(table_text(graph.table(graph.gemm(graph.input("y", "batch", 4), "last", 2))))


WRITTEN_TABLE = _written_table()


@settings(deadline=None, max_examples=60)
@given(tables())
def test_a_node_table_that_is_written_is_read(made):
    assert parse_node_table(table_text(made), "t.json") == made


@settings(deadline=None, max_examples=200)
@given(MUTATIONS)
def test_a_node_table_that_was_changed_is_read_or_refused(mutations):
    text = json.dumps(mutated(WRITTEN_TABLE, mutations))
    found = read_or_refused(lambda: parse_node_table(text, "t.json"), NodeTable, "t.json")
    if found is not None:
        sizes = dimension_sizes(found, batch=2, sequence=8, rank=4)
        assert all(isinstance(size, int) for size in sizes.values())
        assert trace(found).table is found


# Hardware profiles.

RATES = st.none() | st.floats(min_value=1e-300, allow_infinity=False)
COUNTS = st.none() | POSITIVE
PROFILES = st.builds(
    lambda texts, cpu, memory, runtime, training, sources: profile(
        title=texts[0],
        description=texts[1],
        cpu=CpuSpec(**cpu),
        memory=MemorySpec(**memory),
        runtime=RuntimeSpec(**runtime),
        training=TrainingSpec(**training),
        sources=tuple(Source(what=what, where=where) for what, where in sources),
    ),
    st.tuples(TEXTS, TEXTS),
    st.fixed_dictionaries(
        {
            "architecture": st.sampled_from(["x86_64", "aarch64", "any"]),
            "model": TEXTS,
            "cores": COUNTS,
            "frequency_hz": COUNTS,
            "gflops": RATES,
            "features": st.lists(TEXTS, max_size=2).map(tuple),
        }
    ),
    st.fixed_dictionaries({"total_bytes": COUNTS, "available_for_app_bytes": COUNTS}),
    st.fixed_dictionaries(
        {
            "ort_version": st.lists(st.integers(0, 99).map(str), min_size=1, max_size=3).map(".".join),
            "threads": SIZES,
            "arena": st.booleans(),
            "graph_optimization": st.sampled_from(["all", "extended", "basic", "off"]),
        }
    ),
    st.fixed_dictionaries({"batch_size": POSITIVE, "max_length": COUNTS}),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=2),
)
WRITTEN_PROFILE = tomllib.loads(profile_text(full_profile()))


@settings(deadline=None, max_examples=60)
@given(PROFILES)
def test_a_profile_that_is_written_is_read(made):
    assert read_profile(profile_text(made), "board.toml") == made


@settings(deadline=None, max_examples=200)
@given(MUTATIONS)
def test_a_profile_that_was_changed_is_read_or_refused(mutations):
    text = toml_text(mutated(WRITTEN_PROFILE, mutations))
    found = read_or_refused(lambda: read_profile(text, "board.toml"), HardwareProfile, "board.toml")
    if found is not None:
        assert json_text(found)


# Adapters.

MODULES = ("bert.query", "bert.words")
PATTERNS = st.dictionaries(
    st.sampled_from(["query", ".*words", "bert.(query|words)", "^x"]), st.integers(1, 64), max_size=3
)
CONFIGS = st.builds(
    lambda more, rank, alpha, patterns, flag: {
        **{f"x_{key}": value for key, value in more.items()},
        **lora_config(r=rank, lora_alpha=alpha, use_rslora=flag),
        "rank_pattern": patterns[0],
        "alpha_pattern": patterns[1],
    },
    st.dictionaries(TEXTS, PLAIN, max_size=3),
    st.integers(1, 512),
    st.integers(1, 512) | st.floats(0, 1e6),
    st.tuples(PATTERNS, PATTERNS),
    st.booleans(),
)
CONFIGURATIONS = [
    lora_config(init_lora_weights="gaussian", target_modules=["query"], alpha_pattern={"query": 3}),
    lora_config(use_dora=True),
    {"peft_type": "IA3", "target_modules": ["query"], "feedforward_modules": ["query"]},
    {"peft_type": "MISS", "r": 2, "init_weights": True, "bias": "none"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of an adapter, whose settings are written again and again."""
    folder = tmp_path_factory.mktemp("adapters") / "a"
    write_adapter(lora_adapter(), folder)
    return folder


@settings(deadline=None, max_examples=60)
@given(config=CONFIGS)
def test_settings_of_an_adapter_that_are_written_are_read(folder, config):
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    found = read_adapter(folder)
    assert found.config == config
    assert list(found.config) == list(config)


@settings(deadline=None, max_examples=200)
@given(config=st.sampled_from(CONFIGURATIONS), mutations=MUTATIONS)
def test_settings_of_an_adapter_that_were_changed_are_read_or_refused(folder, config, mutations):
    (folder / CONFIG_NAME).write_text(json.dumps(mutated(config, mutations)), encoding="utf-8")
    found = read_or_refused(lambda: read_adapter(folder), Adapter, folder / CONFIG_NAME)
    if found is None:
        return
    method = method_of(found.config)
    assert method.described(found.config)
    assert "targets" in method.settings(found.config)
    scales = read_or_refused(lambda: method.scales(found, MODULES), dict, folder)
    assert scales is None or all(math.isfinite(scale) for scale in scales.values())


# Files cut short.


CUT = {
    "manifest": (full_manifest().to_json(), lambda text: read_manifest(text, "f"), Manifest),
    "node table": (json.dumps(WRITTEN_TABLE), lambda text: parse_node_table(text, "f"), NodeTable),
    "profile": (profile_text(full_profile()), lambda text: read_profile(text, "f"), HardwareProfile),
}


@pytest.mark.parametrize("name", CUT)
@settings(deadline=None, max_examples=50)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_text_that_is_cut_is_refused_or_read(name, share):
    text, read, kind = CUT[name]
    found = read_or_refused(lambda: read(text[: int(share * len(text))]), kind, "f")
    # A whole line less of TOML is a whole document, and JSON without its last line break.
    assert found is None or name == "profile" or share > 0.99
