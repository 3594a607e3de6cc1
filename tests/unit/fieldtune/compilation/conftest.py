"""A bundle in the form of its manifest, keys and entries, without any graph that could run."""

import dataclasses
import hashlib

import pytest

from fieldtune.bundle.layout import Layout
from fieldtune.bundle.manifest import BaseModelSpec, GraphSpec, Manifest, TaskSpec, TensorSpec
from fieldtune.bundle.opening import Bundle, file_spec
from fieldtune.compilation.kept.entry import Entry, list_files
from fieldtune.compilation.kept.key import CompileKey
from fieldtune.placement.report import PlacementReport, ProviderShare

VITIS, CPU = "VitisAIExecutionProvider", "CPUExecutionProvider"


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
    return PlacementReport(
        profile="vek280",
        target=key.target,
        graph="prefix_vek280",
        requested=VITIS,
        actual=VITIS,
        emulated=False,
        reason="as the profile vek280 says",
        batch=14,
        shares=(ProviderShare(provider=VITIS, nodes=20, macs=900), ProviderShare(provider=CPU, nodes=3, macs=100)),
        partitions=2,
        boundary_bytes=4096,
        cpu_operators={"Softmax": 1, "Transpose": 2},
        cache_identity=key.identity,
        estimated_run_s=None,
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
        root = tmp_path / "bundle"
        contents = {f"graphs/{name}.onnx": data for name, data in graphs.items()}
        contents |= {f"graphs/{name.replace('_', '.')}": data for name, data in others.items()}
        for path, data in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        spec = TensorSpec(name="x", dtype="float32", shape=(1, 3))
        return Bundle(
            root,
            Manifest(
                base=BaseModelSpec(id="m", revision=None, sha256="", architecture="", licence=None, dtypes={}),
                task=TaskSpec(name="image-classification", labels=("a", "b")),
                method="lora",
                text=None,
                image=None,
                peft_config={},
                layout=Layout(parameters=()),
                graphs={
                    name: GraphSpec(
                        path=f"graphs/{name}.onnx",
                        nodes="",
                        opset=17,
                        ir_version=8,
                        min_ort="1.16.3",
                        inputs=(spec,),
                        outputs=(spec,),
                        adapter_inputs=(),
                    )
                    for name in graphs
                },
                parity=(),
                tools={},
                files={path: file_spec(root / path) for path in contents},
            ),
        )

    return make
