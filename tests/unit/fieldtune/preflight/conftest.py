"""Bundles of which there are a manifest and node tables alone: more is not needed to check them."""

import pytest

from builders import prefix_table, table_bundle, tensor_spec, whole_tables


@pytest.fixture
def bundle(tmp_path):
    """The function from tables of graphs to a bundle for images that holds them, written to disk."""
    return lambda *tables, **changes: table_bundle(tmp_path, *tables, **changes)


@pytest.fixture
def whole(bundle):
    """The function that makes a bundle of one product each in its three graphs."""
    return lambda **changes: bundle(*whole_tables(), **changes)


@pytest.fixture
def split(graph, bundle):
    """The function that makes a split bundle with a quantized prefix for profiles."""

    def make(*profiles, **prefix):
        tables = [prefix_table(profile, **prefix) for profile in profiles]
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
