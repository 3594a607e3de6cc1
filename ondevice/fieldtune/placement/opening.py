"""open_graph: a graph opened as it is; where another provider than the CPU's runs it, its real placement is read back.

ONNX Runtime gives the CPU what a provider does not take, without a word, be it everything.
"""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.bundle import Bundle, NodeTable, dimension_sizes, read_node_table
from fieldtune.errors import FieldtuneError, InvalidBundle, PlacementRefused, ProviderUnavailable
from fieldtune.hardware import CPU_PROVIDER
from fieldtune.placement.readback import RanPiece, describe, match_pieces, open_recorded, records_placement
from fieldtune.placement.reports import PlacementReport, hold, provider_report
from fieldtune.runtime import ProviderChoice, check_runtime, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_graph(
    bundle: Bundle, graph: str, choice: ProviderChoice, batch: int | None = None
) -> "tuple[InferenceSession, PlacementReport | None]":
    """Open a graph of a bundle; return the session, and where it runs unless that is the CPU alone.

    Args:
        bundle: the bundle.
        graph: name of the graph.
        choice: the provider, how sessions are opened, and what is demanded of the placement.
        batch: samples that a run is going to have; None for any number.

    Raises:
        InvalidBundle, ProviderUnavailable: as ``open_session``.
        PlacementRefused: the provider runs nothing of it, or less or in more pieces than the profile demands; or where
            it runs cannot be read back.
    """
    path, spec = bundle.graph_path(graph), bundle.manifest.graphs[graph]
    check_runtime(spec, path)
    if choice.on_cpu:
        return open_session(path, choice, in_order=spec.in_order), None
    table = read_node_table(bundle.root / spec.nodes)
    try:
        sizes = dimension_sizes(table, batch=1, sequence=1, rank=1)
        session, pieces = open_recorded(path, _readable(choice), {}, spec.inputs, sizes, in_order=spec.in_order)
    except (InvalidBundle, ProviderUnavailable):
        raise
    except FieldtuneError as error:
        raise PlacementRefused(
            f"{path}: what {choice.provider} runs of it cannot be read back, and it is not run without; take ONNX "
            f"Runtime 1.24 or later, or a profile with {CPU_PROVIDER}: {error}"
        ) from error
    report = _report(bundle, table, choice, pieces, batch)
    hold(report, choice)
    return session, report


def _readable(choice: ProviderChoice) -> ProviderChoice:
    """Return a choice by which nodes keep their names where these are only known from a run, after all rewriting."""
    settings = choice.session_settings
    if records_placement() or settings.graph_optimization == "off":
        return choice
    return dataclasses.replace(choice, session_settings=dataclasses.replace(settings, graph_optimization="basic"))


def _report(
    bundle: Bundle, table: NodeTable, choice: ProviderChoice, pieces: tuple[RanPiece, ...], batch: int | None
) -> PlacementReport:
    """Return what was read back, counted for texts as long as the model takes."""
    text = bundle.manifest.text
    sizes = dimension_sizes(
        table,
        batch=batch or 1,
        sequence=text.max_length if text else 0,
        rank=bundle.manifest.layout.rank,
    )
    read = match_pieces(table, pieces, sizes)
    return provider_report(describe(table, read, sizes), choice, table.graph, batch=batch, partitions=read.pieces)
