"""Split at the logits: all of a classifier is the prefix, for a bundle in which nothing is left to adapt.

1. The boundary is the logits, one row a sample.
2. The prefix is the inference graph up to them; behind them the suffix graphs pass them on and compute the loss.
"""

from collections.abc import Sequence

from fieldtune.bundle import PREFIX_GRAPH, SplitSpec, TensorSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.graph import Graph
from fieldtune_offline.passes.cheapest_boundary import BATCH
from fieldtune_offline.passes.split_prefix import Split, extract, suffix


def split_at_logits(evaluation: Graph, inference: Graph) -> Split:
    """Cut both graphs at their logits; they are left as they are.

    Raises:
        UnsupportedModel: as ``check_cut``.
    """
    check_cut(inference.inputs, inference.outputs)
    (logits,) = inference.outputs
    spec = SplitSpec(boundary=(TensorSpec(name="boundary_0", dtype="float32", shape=logits.shape),))
    cuts = []
    for graph in (evaluation, inference):
        (value,) = (value for value in graph.model.graph.outputs if value.name == logits.name)
        cuts.append((graph, value))
    prefix = extract(inference, PREFIX_GRAPH, {"boundary_0": cuts[-1][1]}, (), spec.boundary)
    return Split((prefix, *(suffix(graph, [value], spec.boundary) for graph, value in cuts)), spec)


def check_cut(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that an inference graph with these inputs and outputs can be cut at its logits.

    Raises:
        UnsupportedModel: a language model, graphs of a fixed batch, or texts of any length.
    """
    if len(outputs) > 1:
        raise UnsupportedModel(
            "text-generation cannot run on an accelerator: decoding would need graphs of its own for the prompt and "
            "for one token; merge without --target"
        )
    free = {size for spec in inputs for size in spec.shape if not isinstance(size, int)}
    if free != {BATCH}:
        given = ", ".join(f"{spec.name} ({', '.join(map(str, spec.shape))})" for spec in inputs)
        raise UnsupportedModel(
            "a merge for an accelerator needs a bundle that takes any batch, and texts of one length; this one takes "
            f"{given}: build it without --batch and, for texts, with --sequence"
        )
