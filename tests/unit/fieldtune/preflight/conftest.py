"""Bundles of which there are a manifest and node tables alone: more is not needed to check them."""

import pytest

from builders import (
    graph_spec,
    image_spec,
    layout,
    manifest,
    parameter,
    table_text,
    target_spec,
    tensor_spec,
    write_bundle,
)
from fieldtune.bundle.manifest import FileSpec, SplitSpec


def _specs(table, names):
    return tuple(tensor_spec(name, *table.values[name].shape, dtype=table.values[name].dtype) for name in names)


@pytest.fixture
def bundle(tmp_path):
    """The function from tables of graphs to a bundle for images that holds them, written to disk."""

    def make(*tables, boundary=(), targets=(), theta=100, min_ort="1.16.3"):
        graphs, contents = {}, {}
        absent = {"graphs/weights.safetensors": FileSpec(sha256="0" * 64, size_bytes=1_000_000)}
        for table in tables:
            spec = graph_spec(
                table.graph,
                min_ort=min_ort,
                inputs=_specs(table, [name for name in table.inputs if name not in table.initializers]),
                outputs=_specs(table, table.outputs),
            )
            graphs[table.graph] = spec
            contents[spec.nodes] = table_text(table).encode()
            absent[spec.path] = FileSpec(sha256="0" * 64, size_bytes=5000)
        described = manifest(
            task="image-classification",
            image=image_spec(),
            peft_config={"r": 4},
            layout=layout(parameter("a", {"rank": 4, "in_features": theta // 4})),
            graphs=graphs,
            files=absent,
            split=SplitSpec(boundary=boundary) if boundary else None,
            targets={profile.name: target_spec(profile) for profile in targets},
        )
        return write_bundle(tmp_path, described, contents)

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
        return bundle(*tables, boundary=(tensor_spec("b", "batch", 16, 8, 8),), targets=profiles)

    return make
