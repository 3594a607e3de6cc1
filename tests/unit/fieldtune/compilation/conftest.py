"""A bundle in the form of its manifest, keys and entries, without any graph that could run."""

import dataclasses
import hashlib

import pytest

from builders import VITIS, graph_spec, image_spec, manifest, placement_report, shares, tensor_spec, write_bundle
from fieldtune.compilation.kept.entry import Entry, list_files
from fieldtune.compilation.kept.key import CompileKey

X = tensor_spec("x", 1, 3)


@pytest.fixture
def key():
    """A key of a real provider."""
    return CompileKey(
        model=hashlib.sha256(b"model").hexdigest(),
        target="DPUCV2DX8G_ISA1_C20B14",
        accelerator=hashlib.sha256(b"accelerator").hexdigest(),
        stack="vitis-ai-3.5",
        driver="xrt 2.15.0, zocl 2.15.0",
        provider=VITIS,
        provider_version="onnxruntime-vitisai 1.16.0, voe 0.1.0",
        options={"config_file": hashlib.sha256(b"config").hexdigest()},
        runtime="1.16.0",
        emulated=False,
    )


@pytest.fixture
def report(key):
    return placement_report(
        shares=shares((20, 900), (3, 100)),
        partitions=2,
        cpu_operators={"Softmax": 1, "Transpose": 2},
        cache_identity=key.identity,
    )


@pytest.fixture
def entry(key, report):
    """The function that makes the entry of whatever files a folder holds."""

    def make(folder, bundle="/somewhere", **changes):
        made = Entry(
            key=key,
            bundle=str(bundle),
            report=report,
            context="",
            created="2026-01-02T03:04:05+00:00",
            seconds=61.5,
            files=list_files(folder),
        )
        return dataclasses.replace(made, **changes)

    return make


@pytest.fixture
def bundle(tmp_path):
    """The function from graphs (name → the bytes of its file) and other files to a bundle that holds them."""

    def make(graphs, **others):
        contents = {f"graphs/{name}.onnx": data for name, data in graphs.items()}
        contents |= {f"graphs/{name.replace('_', '.')}": data for name, data in others.items()}
        specs = {name: graph_spec(name, inputs=(X,), outputs=(X,)) for name in graphs}
        return write_bundle(tmp_path / "bundle", manifest(image=image_spec(), graphs=specs), contents)

    return make
