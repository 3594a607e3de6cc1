"""Graphs of a packed bundle with float32 products of the unpacked matrices: what packed ones are compared with."""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from fieldtune.bundle import WEIGHTS_NAME, Bundle
from fieldtune_offline.passes.stand_ins import leave_out, stand_in
from fieldtune_offline.weights import LazyTensor, bind_weights, write_lazy_weights


def write_unpacked(packed: Bundle, names: Sequence[str], root: Path) -> None:
    """Write forward graphs of a packed bundle with unpacked matrices, and their weights, one at a time.

    Args:
        packed: the bundle.
        names: of its graphs.
        root: the folder that gets them, under the paths that the bundle has for them.
    """
    recipes = packed.manifest.base.packed.matrices if packed.manifest.base.packed else {}
    models = {name: ir.load(packed.graph_path(name)) for name in names}
    tensors: dict[str, LazyTensor] = {}
    for model in models.values():
        leave_out(model, stand_in(model, recipes, loops=True))
        for name, value in model.graph.initializers.items():
            held = value.const_value
            if isinstance(held, ir.ExternalTensor | ir.LazyTensor):
                tensors[name] = LazyTensor(held.dtype, tuple(held.shape.numpy()), held.numpy)
    weights = root / WEIGHTS_NAME
    weights.parent.mkdir(parents=True)
    slots = write_lazy_weights(weights, tensors)
    for name, model in models.items():
        bind_weights((value for key, value in model.graph.initializers.items() if key in slots), slots, weights)
        ir.save(model, root / packed.manifest.graphs[name].path)
