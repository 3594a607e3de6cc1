"""Sizes of a graph's symbolic dimensions: of the batch that is asked about, and bounds of what only data decide."""

import re

from fieldtune.bundle.node_tables import NodeTable, Sizes, product

_NAME = re.compile(r"[A-Za-z_]\w*")


def dimension_sizes(table: NodeTable, *, batch: int, sequence: int, rank: int) -> dict[str, int]:
    """Return a size for every symbolic dimension of a graph.

    A size that only the data decide, as the number of labelled tokens, is bounded by the elements of the tensors that
    it is worked out from.

    Args:
        table: of the graph.
        batch: samples that go in together.
        sequence: tokens of each sample, none of them in a cache before; 0 for images.
        rank: of the adapter that is fed.

    Returns:
        Name → size.
    """
    sizes = {
        "batch": batch,
        "sequence": sequence,
        "past_sequence": 0,
        "total_sequence": sequence,
        "rank": rank,
    }
    for node in table.nodes:
        for name in node.outputs:
            shape = table.values[name].shape if name else ()
            for symbol in _symbols(shape):
                if symbol not in sizes:
                    sizes[symbol] = max((_elements(table, read, sizes) for read in node.reads), default=1)
    return sizes


def _symbols(shape: tuple[int | str, ...]) -> list[str]:
    return [symbol for dim in shape if isinstance(dim, str) for symbol in _NAME.findall(dim)]


def _elements(table: NodeTable, name: str, sizes: Sizes) -> int:
    try:
        return product(table.values[name].shape, sizes)
    except (KeyError, ValueError):  # a size that nothing tells: whatever else the node reads bounds it
        return 1
