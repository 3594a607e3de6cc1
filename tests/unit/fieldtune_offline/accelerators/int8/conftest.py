"""Small float32 graphs from ONNX's textual form."""

import numpy as np
import pytest


@pytest.fixture
def graph():
    """The function that parses a graph's text; initializers are arrays, or shapes of random ones."""
    import onnx
    import onnx_ir as ir

    def build(text, opset=18, **initializers):
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
        draw = np.random.default_rng(0)
        for name, value in initializers.items():
            array = draw.normal(size=value).astype(np.float32) if isinstance(value, tuple) else value
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return ir.from_proto(model)

    return build


@pytest.fixture
def accelerator():
    """The function that returns a profile's accelerator."""
    from fieldtune.hardware import load_profile

    return lambda name: load_profile(name).accelerator


@pytest.fixture
def flow():
    """The function that returns the data flow of a graph that is made static."""
    from fieldtune.placement.flow.dataflow import trace
    from fieldtune_offline.accelerators.int8.static import static_model
    from fieldtune_offline.node_table import table_of

    return lambda model, **sizes: trace(table_of(static_model(model, sizes)))
