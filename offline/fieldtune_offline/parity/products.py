"""Products of integers, each held to torch's same arithmetic with what the graph itself multiplied.

A graph with such products cannot be held to torch as a whole: activations are rounded to integers, and one that lies
between two of them goes either way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from fieldtune.adapters import Adapter
from fieldtune.bundle import PREFIX_GRAPH, WEIGHTS_NAME, Bundle
from fieldtune.errors import ParityError, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.graph import Graph, packed_weights
from fieldtune_offline.parity.whole import (
    arrays_of,
    moved_inputs,
    open_on_cpu,
    perturbed,
    relative_difference,
    run_named,
)
from fieldtune_offline.precisions.operators import PRODUCT, Product
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.tasks.interface import Task
from fieldtune_offline.weights import stored_name

TOLERANCE = 1e-4
"""Relative to the largest element of the product."""
_PROBE = "probe.onnx"


def check_products(
    made: Bundle, graphs: Sequence[Graph], adapted: Adapted, task: Task, initial: Adapter, shape: tuple[int, int]
) -> float:
    """Compare every product of integers of the graphs as written.

    Args:
        made: the bundle, as far as it is written.
        graphs: its graphs; those without such products are passed over.
        adapted: the torch model.
        task: gives batches.
        initial: the bundle's adapter, as read back from its folder.
        shape: batch and sequence to compare at.

    Returns:
        The largest difference, relative to the largest element of its product.

    Raises:
        ParityError: a difference above its tolerance; every one is listed.
    """
    from safetensors import safe_open

    worst, faults = 0.0, list[str]()
    with perturbed(adapted) as theta, safe_open(made.root / WEIGHTS_NAME, framework="pt") as held:
        adapter = moved_inputs(theta, initial, made)
        batch = {**arrays_of(task.batch(*shape, 0)), **adapter, "theta": theta}
        if made.manifest.split is not None:
            session = open_on_cpu(made.graph_path(PREFIX_GRAPH), lean=True)
            batch |= run_named(session, batch)
        served = [{**arrays_of(feeds), **adapter} for feeds in task.inference_batches(*shape, 0)]
        for graph in graphs:
            products = products_of(graph)
            if not products:
                continue
            names = {spec.name for spec in (*graph.inputs, *graph.adapter_inputs)}
            for feeds in [batch] if names <= batch.keys() else served:
                values = _run(made, graph, products, {name: feeds[name] for name in names})
                for name, product in products.items():
                    parts = [held.get_tensor(stored_name(part)) for part in product.parts]
                    difference = relative_difference(values[name], _expected(product, parts, values))
                    worst = max(worst, difference)
                    if not difference <= TOLERANCE:
                        faults.append(f"{graph.name}.onnx: {name} of {product.parts[0]} differs by {difference:.1e}")
    if faults:
        raise ParityError(f"products of integers are not those of torch; nothing was written{listed(faults)}")
    return worst


def products_of(graph: Graph) -> dict[str, Product]:
    """Return the products of integers of a graph and of the bodies in it, by the names of their values."""
    made = (value for node in graph.model.graph.all_nodes() for value in node.outputs)
    return {str(value.name): value.meta[PRODUCT] for value in made if PRODUCT in value.meta}


def _run(
    made: Bundle, graph: Graph, products: Mapping[str, Product], feeds: Mapping[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return products and what they were computed from, by name, of one run of the graph.

    Of a loop's body the rounds' are put together, one after another: rows are quantized each on its own.
    """
    given = [product.given for product in products.values()]
    wanted = list(dict.fromkeys([*products, *given]))
    probe = graph.model.clone()
    shown = {name: name for name in show(probe.graph, wanted)}
    in_rounds: dict[str, str] = {}
    for node in probe.graph:
        if node.op_type == "Scan":
            in_rounds |= show_rounds(node, [name for name in wanted if name not in shown], probe.graph)
    path = made.root / "graphs" / _PROBE
    try:
        ir.save(probe, path)
        session = open_on_cpu(path, lean=True, in_order=bool(packed_weights(graph.model.graph)))
        # What is multiplied may be an input itself.
        fed = {name: feeds[name] for name in given if name not in shown and name not in in_rounds}
        outputs = {**shown, **in_rounds}
        values = dict(zip(outputs, session.run(list(outputs.values()), feeds), strict=True))
    finally:
        path.unlink(missing_ok=True)
    for name in in_rounds:
        values[name] = values[name].reshape(-1, values[name].shape[-1])
    return {**fed, **values}


def show(graph: ir.Graph, names: Sequence[str]) -> list[str]:
    """Make values that nodes of a graph compute its outputs, and return the names of those there are."""
    values = {str(value.name): value for node in graph for value in node.outputs}
    found = [name for name in names if name in values]
    graph.outputs.extend(values[name] for name in found if not values[name].is_graph_output())
    return found


def show_rounds(scan: ir.Node, names: Sequence[str], graph: ir.Graph) -> dict[str, str]:
    """Make values of a Scan's body outputs of the graph around it, of one axis more: the rounds.

    Returns:
        Name → the name of the output, for those that are in the body.
    """
    body = scan.attributes["body"].as_graph()
    values = {str(value.name): value for value in (*body.inputs, *(out for node in body for out in node.outputs))}
    shown: dict[str, str] = {}
    for name in names:
        if name not in values:
            continue
        # A node of its own: what is an input of the body, or an output already, is no further output.
        seen = ir.node("Identity", [values[name]], name=f"{name}.seen")
        body.append(seen)
        body.outputs.append(seen.outputs[0])
        scan.resize_outputs(len(scan.outputs) + 1)
        result = scan.outputs[-1]
        for value, called in ((seen.outputs[0], f"{name}.seen"), (result, f"{name}.rounds")):
            value.name, value.type = called, values[name].type
        graph.outputs.append(result)
        shown[name] = f"{name}.rounds"
    return shown


def _expected(product: Product, parts: Sequence[torch.Tensor], values: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    given, precision = torch.from_numpy(values[product.given]), precision_of(product.recipe)
    if product.backward:
        return precision.input_gradient(given, parts, product.columns).numpy()
    return precision.product(given, parts, product.rows).numpy()
