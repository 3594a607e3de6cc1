"""Drop the adapter: a graph without adapter inputs, and what its weights have to become for it to compute the same.

1. What the adapter's method adds is taken out by its fold, which gives weights that change a value of their own. A tied
   weight comes apart where only one of its uses is adapted; the use that is not keeps the old tensor, under another
   name if the new one needs it.
2. Heads and biases become initializers under the names that the checkpoint has for them.
3. Nodes and initializers that nothing needs any more are gone.

No value is computed here: the graph's merged weights have none until they are bound, and a ``MergedTensor`` says how
each comes about.
"""

import dataclasses

import onnx_ir as ir

from fieldtune.bundle import Layout
from fieldtune.errors import ExportError
from fieldtune_offline.passes.merged_tensor import Fold, MergedTensor, held_tensor, register, unbound


def drop_adapter(model: ir.Model, layout: Layout, fold: Fold) -> list[MergedTensor]:
    """Edit a forward graph in place; return its merged weights, whose initializers have no value yet.

    Args:
        model: eval.onnx or infer.onnx.
        layout: of the bundle.
        fold: of the adapter's method.

    Raises:
        ExportError: a branch of another form than builds make.
    """
    graph = model.graph
    fed = {str(value.name): value for value in graph.inputs}
    merged: dict[str, MergedTensor] = {}
    made: list[ir.Value] = []
    for tensor, value in fold(fed, layout):
        merged[tensor.name] = tensor
        made.append(value)
    adapter = [value for value in fed.values() if value.const_value is not None]  # what has a default
    for value in adapter:
        graph.inputs.remove(value)
    _drop_unused(graph)
    names = {parameter.key: parameter.replaces for parameter in layout.parameters if parameter.replaces is not None}
    left = [str(value.name) for value in adapter if value.uses() and value.name not in names]
    if left:
        raise ExportError(f"{graph.name}.onnx: still reads {', '.join(left)}; build the bundle again with this release")
    for value in adapter:
        if value.uses():
            key = str(value.name)
            name = names[key]
            merged[name] = dataclasses.replace(held_tensor(graph.initializers.pop(key), key=key), name=name)
            made.append(unbound(name, value))
            ir.convenience.replace_all_uses_with(value, made[-1])
    register(graph, made)
    return list(merged.values())


def _drop_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
