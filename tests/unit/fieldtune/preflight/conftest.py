"""Bundles of which there are a manifest and node tables alone: more is not needed to check them."""

import json

import pytest

from fieldtune.bundle.layout import Layout, ParameterSpec
from fieldtune.bundle.manifest import (
    MANIFEST_NAME,
    BaseModelSpec,
    FileSpec,
    GraphSpec,
    ImageSpec,
    Manifest,
    SplitSpec,
    TargetSpec,
    TaskSpec,
    TensorSpec,
)
from fieldtune.bundle.node_tables import FORMAT_VERSION
from fieldtune.bundle.opening import Bundle, file_spec


def write_table(table, path):
    """Write a node table as the dev box does."""
    values = {
        name: {"dtype": value.dtype, "shape": list(value.shape)}
        | ({} if value.constant_bytes is None else {"bytes": value.constant_bytes})
        for name, value in table.values.items()
    }
    nodes = [
        {
            "name": node.name,
            "op": node.op,
            "module": node.module,
            "inputs": list(node.inputs),
            "outputs": list(node.outputs),
            "attributes": dict(node.attributes),
            "macs": list(node.macs),
            "quantization": node.quantization
            and {
                "scale": list(node.quantization.scale),
                "zero_point": list(node.quantization.zero_point),
                "axis": node.quantization.axis,
                "dtype": node.quantization.dtype,
            },
        }
        for node in table.nodes
    ]
    whole = {
        "format_version": FORMAT_VERSION,
        "graph": table.graph,
        "opset": table.opset,
        "inputs": list(table.inputs),
        "outputs": list(table.outputs),
        "initializers": list(table.initializers),
        "values": values,
        "nodes": nodes,
    }
    path.write_text(json.dumps(whole), encoding="utf-8")


def _specs(table, names):
    return tuple(
        TensorSpec(name=name, dtype=table.values[name].dtype, shape=table.values[name].shape) for name in names
    )


@pytest.fixture
def bundle(tmp_path):
    """The function from tables of graphs to a bundle for images that holds them, written to disk."""

    def make(*tables, boundary=(), targets=(), theta=100, min_ort="1.16.3"):
        (tmp_path / "graphs").mkdir(parents=True)
        graphs, files = {}, {"graphs/weights.safetensors": FileSpec(sha256="0" * 64, size_bytes=1_000_000)}
        for table in tables:
            path = f"graphs/{table.graph}.nodes.json"
            write_table(table, tmp_path / path)
            files[path] = file_spec(tmp_path / path)
            files[f"graphs/{table.graph}.onnx"] = FileSpec(sha256="0" * 64, size_bytes=5000)
            graphs[table.graph] = GraphSpec(
                path=f"graphs/{table.graph}.onnx",
                nodes=path,
                opset=18,
                ir_version=8,
                min_ort=min_ort,
                inputs=_specs(table, [name for name in table.inputs if name not in table.initializers]),
                outputs=_specs(table, table.outputs),
                adapter_inputs=(),
            )
        parameter = ParameterSpec(
            key="a", module="m", axes=("rank", "in_features"), shape=(4, theta // 4), offset=0, decay=True
        )
        manifest = Manifest(
            base=BaseModelSpec(id="b", revision=None, sha256="a" * 64, architecture="B", licence="MIT", dtypes={}),
            task=TaskSpec(name="image-classification", labels=("no", "yes")),
            method="lora",
            text=None,
            image=ImageSpec(
                height=8, width=8, channels=3, resize=None, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
            peft_config={"r": 4},
            layout=Layout((parameter,)),
            graphs=graphs,
            parity=(),
            tools={},
            files=files,
            split=SplitSpec(boundary=boundary) if boundary else None,
            targets={
                profile.name: TargetSpec(
                    profile=profile.name,
                    target=profile.accelerator.target,
                    graph=f"prefix_{profile.name}",
                    precision=profile.accelerator.precision,
                    activation_type=profile.accelerator.activation_type,
                    zero_point=profile.accelerator.zero_point,
                    batch=profile.accelerator.batch,
                    quantizer="test",
                    calibration_examples=1,
                    accuracy=None,
                    reference=f"graphs/prefix_{profile.name}.onnx",
                )
                for profile in targets
            },
        )
        (tmp_path / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        return Bundle(tmp_path, manifest)

    return make


@pytest.fixture
def whole(graph, bundle):
    """The function that makes a bundle of one product each in its three graphs; the weight is 4,000,000 bytes large."""

    def make(**changes):
        tables = []
        for name in ("gradient", "eval", "infer"):
            made = graph()
            pixels = made.input("pixel_values", "batch", 3, 8, 8)
            flat = made.add("Reshape", [pixels], ("batch", 192), name="flat")
            weight = made.constant("w", 192, 5208, bytes_=192 * 5208 * 4)
            out = made.add("MatMul", [flat, weight], ("batch", 5208), name="product", macs=("batch", 5208, 192))
            tables.append(made.table(out, name=name))
        return bundle(*tables, **changes)

    return make


@pytest.fixture
def split(graph, bundle):
    """The function that makes a split bundle with a quantized prefix for profiles."""

    def make(*profiles, middle="Relu", conv=None, dynamic=False):
        tables = []
        for profile in profiles:
            batch = "batch" if dynamic else profile.accelerator.batch
            made = graph(profile.accelerator.activation_type, profile.accelerator.zero_point)
            x = made.quantize(made.input("pixel_values", batch, 3, 8, 8))
            first = made.conv(x, "stem", **(conv or {}))
            activated = made.quantize(made.add(middle, [made.quantize(first)], (batch, 16, 8, 8), name="middle"))
            out = made.quantize(made.conv(activated, "last"))
            tables.append(made.table(out, name=f"prefix_{profile.name}"))
        made = graph()
        boundary = made.add("Relu", [made.input("pixel_values", "batch", 3, 8, 8)], ("batch", 16, 8, 8), name="b")
        tables.append(made.table(boundary, name="prefix"))
        for name in ("gradient", "eval", "infer"):
            made = graph()
            x = made.input("pixel_values", "batch", 3, 8, 8)
            tables.append(made.table(made.add("ReduceMean", [x], ("batch",)), name=name))
            made = graph()
            x = made.input("b", "batch", 16, 8, 8)
            weight = made.constant("w", 1024, 10, bytes_=40_960)
            flat = made.add("Reshape", [x], ("batch", 1024))
            out = made.add("MatMul", [flat, weight], ("batch", 10), macs=("batch", 10, 1024))
            tables.append(made.table(out, name=f"suffix_{name}"))
        spec = TensorSpec(name="b", dtype="float32", shape=("batch", 16, 8, 8))
        return bundle(*tables, boundary=(spec,), targets=profiles)

    return make
