"""The frozen prefix of a bundle, opened where a profile runs it."""

import dataclasses
import hashlib
import json
import platform
from typing import TYPE_CHECKING

import numpy as np

from fieldtune.bundle import Bundle
from fieldtune.compilation.targets import choose_for, find_target
from fieldtune.data.batches import Batch
from fieldtune.hardware import HardwareProfile
from fieldtune.layout import FloatArray
from fieldtune.manifest import PREFIX_GRAPH, WEIGHTS_NAME, GraphSpec
from fieldtune.node_tables import read_node_table
from fieldtune.on_missing import OnMissing
from fieldtune.placement.report import PlacementReport, ProviderShare
from fieldtune.providers import ProviderChoice
from fieldtune.runtime import features
from fieldtune.session import open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU_BATCH = 4
"""Samples in a run of the float32 prefix. Kernels may sum in another order for another number of rows, so the number is
fixed: then a sample's bits depend on the sample alone. Four cost as little each as eight, and waste fewer rows."""


class Prefix:
    """The frozen prefix, ready to run.

    Args:
        session: of its graph.
        spec: what goes in and comes out.
        batch: samples in each run of the session.
        identity: digest of all that its results depend on.
        report: where it runs.
    """

    def __init__(
        self, session: "InferenceSession", spec: GraphSpec, batch: int, identity: str, report: PlacementReport
    ) -> None:
        self._session = session
        self.spec, self.batch, self.identity, self.report = spec, batch, identity, report

    def run(self, arrays: Batch) -> dict[str, FloatArray]:
        """Return the boundary of samples, in runs of ``batch`` of which the last is filled up.

        Args:
            arrays: by the names of ``spec.inputs``, any number of rows.

        Returns:
            Boundary tensor → float32, as many rows.

        Raises:
            FieldtuneError: ONNX Runtime fails.
        """
        names = [spec.name for spec in self.spec.outputs]
        feeds = {spec.name: arrays[spec.name] for spec in self.spec.inputs}
        rows = len(next(iter(feeds.values())))
        parts: list[list[FloatArray]] = []
        for first in range(0, rows, self.batch):
            piece = {name: array[first : first + self.batch] for name, array in feeds.items()}
            count = len(next(iter(piece.values())))
            found = run_session(self._session, names, {name: self._filled(array) for name, array in piece.items()})
            parts.append([output[:count] for output in found])
        return {name: np.concatenate(outputs) for name, outputs in zip(names, zip(*parts, strict=True), strict=True)}

    def _filled(self, array: FloatArray) -> FloatArray:
        """Repeat the last row until the batch is full: whatever a sample may be, the others are of its kind."""
        return np.concatenate([array, np.repeat(array[-1:], self.batch - len(array), axis=0)])


def open_prefix(bundle: Bundle, profile: HardwareProfile, *, on_missing: OnMissing | None = None) -> Prefix:
    """Open the frozen prefix where a profile runs it.

    Args:
        bundle: with a split and, for a profile with an accelerator, a prefix made for it.
        profile: of the device.
        on_missing: what to do where the profile's provider is not there; what the profile says if None.

    Raises:
        InvalidBundle: the bundle has no such prefix.
        ProviderUnavailable: the profile's provider is not there.
    """
    choice = choose_for(bundle, profile, on_missing=on_missing)
    target = None if profile.accelerator is None else find_target(bundle, profile)
    graph, batch = (PREFIX_GRAPH, CPU_BATCH) if target is None else (target.graph, target.batch)
    session = open_session(bundle.graph_path(graph), choice)
    spec = bundle.manifest.graphs[graph]
    return Prefix(
        session, spec, batch, _identity(bundle, graph, choice, batch), _report(bundle, profile, graph, choice, batch)
    )


def _identity(bundle: Bundle, graph: str, choice: ProviderChoice, batch: int) -> str:
    files, path = bundle.manifest.files, bundle.manifest.graphs[graph].path
    parts = {
        "graph": files[path].sha256,
        "weights": files[WEIGHTS_NAME].sha256,
        "batch": batch,
        "provider": choice.provider,
        "emulated": choice.emulated,
        "settings": dataclasses.asdict(choice.session_settings),
        "onnxruntime": features().version,
        "machine": platform.machine(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _report(
    bundle: Bundle, profile: HardwareProfile, graph: str, choice: ProviderChoice, batch: int
) -> PlacementReport:
    table = read_node_table(bundle.root / bundle.manifest.graphs[graph].nodes)
    macs = sum(table.macs(node, {"batch": batch}) for node in table.nodes)
    return PlacementReport(
        profile=profile.name,
        target="",
        graph=graph,
        requested=choice.requested,
        actual=choice.provider,
        emulated=choice.emulated,
        reason=choice.reason,
        batch=batch,
        shares=(ProviderShare(provider=choice.provider, nodes=len(table.nodes), macs=macs),),
        partitions=0,
        boundary_bytes=0,
        cpu_operators={},
        cache_identity="",
        estimated_run_s=None,
    )
