"""A bundle's folder: opened when every file is there, whole and unaltered; else all that is not is listed."""

import dataclasses
import hashlib
import os

import pytest

from builders import (
    full_manifest,
    graph_spec,
    image_spec,
    manifest,
    merged_manifest,
    node_table,
    rewrite,
    table_text,
    write_bundle,
)
from fieldtune.bundle.manifest import MANIFEST_NAME, FileSpec
from fieldtune.bundle.opening import TOKENIZER_NAME, file_spec, open_bundle, open_tables
from fieldtune.errors import CorruptFile, InvalidBundle, UnsupportedFormat

MODEL, TABLE, WEIGHTS = "graphs/infer.onnx", "graphs/infer.nodes.json", "graphs/weights.safetensors"
CONTENTS = {
    MODEL: b"model",
    TABLE: table_text(node_table()).encode(),
    WEIGHTS: b"weights" * 1000,
    TOKENIZER_NAME: b"{}",
}
DESCRIBED = manifest(graphs={"infer": graph_spec("infer")})


@pytest.fixture
def root(tmp_path):
    return write_bundle(tmp_path / "b", DESCRIBED, CONTENTS).root


def faults(root, open_=open_bundle):
    """What is listed; the first line says how many there are, and what to do."""
    with pytest.raises(CorruptFile) as caught:
        open_(root)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{root}: {len(rest)} faulty file(s); copy or build the bundle again"
    return [line.removeprefix("  - ") for line in rest]


def refusal(root, error=InvalidBundle):
    with pytest.raises(error) as caught:
        open_bundle(root)
    return str(caught.value)


def with_file(root, name, **changes):
    """Let the manifest name a file."""
    spec = {"sha256": "0" * 64, "size_bytes": 1, **changes}
    files = {path: dataclasses.asdict(file_spec(root / path)) for path in CONTENTS}
    rewrite(root / MANIFEST_NAME, files={**files, name: spec})


def test_what_is_whole_is_opened(root):
    bundle = open_bundle(str(root))
    assert bundle.root == root
    digest = hashlib.sha256(CONTENTS[WEIGHTS]).hexdigest()
    assert bundle.manifest.files[WEIGHTS] == FileSpec(sha256=digest, size_bytes=7000)
    assert bundle.graph_path("infer") == root / MODEL
    assert (bundle.weights_path, bundle.tokenizer_path) == (root / WEIGHTS, root / TOKENIZER_NAME)
    assert bundle.adapter_path == root / "adapter"
    assert open_tables(root) == bundle


def test_files_that_are_missing_cut_or_altered_are_all_listed(root):
    (root / MODEL).unlink()
    (root / WEIGHTS).write_bytes(b"weights" * 999)
    (root / TABLE).write_bytes(CONTENTS[TABLE].replace(b"prefix", b"suffix"))
    (root / TOKENIZER_NAME).unlink()
    (root / TOKENIZER_NAME).mkdir()
    found, expected = (hashlib.sha256(data).hexdigest()[:12] for data in ((root / TABLE).read_bytes(), CONTENTS[TABLE]))
    assert faults(root) == [
        f"{MODEL}: missing",
        f"{TABLE}: altered (sha256 {found}…; expected {expected}…)",
        f"{WEIGHTS}: 6993 bytes; expected 7000",
        f"{TOKENIZER_NAME}: missing",
    ]


def test_tables_alone_do_not_need_the_other_files(root):
    for name in (MODEL, WEIGHTS, TOKENIZER_NAME):
        (root / name).unlink()
    assert open_tables(root).manifest.graphs == DESCRIBED.graphs
    (root / TABLE).write_bytes(b"")
    assert faults(root, open_tables) == [f"{TABLE}: 0 bytes; expected {len(CONTENTS[TABLE])}"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "graphs/../../secret", "link/secret"])
def test_nothing_outside_the_bundle_is_looked_at(root, name):
    (root.parent / "secret").write_bytes(b"s")
    (root / "link").symlink_to(root.parent)
    with_file(root, name)
    assert faults(root) == [f"{name}: leads out of the bundle"]


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "loop"], ids=["a zero", "too long", "a loop of links"])
def test_names_that_no_file_can_have(root, name):
    (root / "loop").symlink_to("loop")
    with_file(root, name)
    (fault,) = faults(root)
    # What Python's own functions make of them differs between its versions.
    assert fault.startswith((f"{name}: cannot be read (", f"{name}: missing"))


def test_a_name_that_is_no_text(root):
    with_file(root, "\ud800")
    assert "manifest.json: files: a key is a string ('\\ud800')" in refusal(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_what_nobody_may_read(root):
    (root / WEIGHTS).chmod(0)
    (fault,) = faults(root)
    assert fault.startswith(f"{WEIGHTS}: cannot be read (")


def test_files_that_are_used_must_have_a_digest(tmp_path):
    root = write_bundle(tmp_path, dataclasses.replace(full_manifest(), files={}), {}).root
    unlisted = "used, but the manifest has no digest of it"
    graphs = [f"graphs/{name}{ending}" for name in full_manifest().graphs for ending in (".nodes.json", ".onnx")]
    others = ["c", "e", "n", "o", "t", "graphs/prefix_board.reference.safetensors", TOKENIZER_NAME]
    assert faults(root) == [f"{name}: {unlisted}" for name in sorted([*graphs, *others])]


def test_folders_that_are_no_bundle(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / MANIFEST_NAME).mkdir(parents=True)
    assert refusal(tmp_path / "none").startswith(f"{tmp_path}/none: not a bundle (no such folder); make one with: ")
    assert refusal(tmp_path / "file").startswith(f"{tmp_path}/file: not a bundle (no such folder)")
    assert refusal(tmp_path / "empty").startswith(f"{tmp_path}/empty: not a bundle (no manifest.json in it)")
    assert refusal(tmp_path / "folder").startswith(f"{tmp_path}/folder: not a bundle (no manifest.json in it)")
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("n" * 300), CorruptFile)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", InvalidBundle, r"manifest\.json: not JSON \("),
        (b"[]", InvalidBundle, r"manifest\.json: expected a table, found a list"),
        (b"\xff\xfe", CorruptFile, r"manifest\.json: not UTF-8 text \("),
        (b'{"format_version": "9.0"}', UnsupportedFormat, r"manifest\.json: format_version is 9\.0; .*update"),
    ],
)
def test_manifests_that_cannot_be_read(root, data, error, says):
    (root / MANIFEST_NAME).write_bytes(data)
    for open_ in (open_bundle, open_tables):
        with pytest.raises(error, match=says):
            open_(root)


def test_what_a_bundle_has_not_is_told_by_its_name(tmp_path, root):
    texts = open_bundle(root)
    images = write_bundle(tmp_path / "i", manifest(task="image-classification", image=image_spec()), {})
    merged = write_bundle(tmp_path / "m", merged_manifest(), {})
    assert texts.text == DESCRIBED.text
    assert images.image == image_spec()
    texts.check_trainable()
    with pytest.raises(InvalidBundle, match=r"/b: has no graph 'eval'; it has infer"):
        texts.graph_path("eval")
    with pytest.raises(InvalidBundle, match="/b: is a bundle for text-classification; it takes texts, not images"):
        texts.image  # noqa: B018
    with pytest.raises(InvalidBundle, match="/i: is a bundle for image-classification; it takes images, not texts"):
        images.text  # noqa: B018
    with pytest.raises(InvalidBundle, match="/m: the adapter a is merged into its weights, and nothing is left"):
        merged.check_trainable()


def test_a_packed_base_is_refused_where_it_cannot_be_taken_with_the_reason_and_the_way_out(tmp_path, root):
    open_bundle(root).check_float32("gold is not packed")
    packed = write_bundle(tmp_path / "p", full_manifest(), {})
    with pytest.raises(InvalidBundle) as caught:
        packed.check_float32("gold is not packed")
    assert str(caught.value) == (
        f"{tmp_path}/p: its base is packed (int4/64/symmetric), and gold is not packed; build it with --base float32, "
        "whose adapters are the same"
    )
