"""PlacementReport: what was asked to run where, and what does."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fieldtune.files import Fields, json_value
from fieldtune.hardware import CPU_PROVIDER


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProviderShare:
    """What one provider runs of a graph.

    Attributes:
        provider: ONNX Runtime's name of it; where the accelerator is emulated, that of the one that is emulated.
        nodes: how many operators of the graph.
        macs: their multiply-accumulate operations in one run.
    """

    provider: str
    nodes: int
    macs: int

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU's."""
        return self.provider == CPU_PROVIDER


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlacementReport:
    """Where a graph runs.

    Attributes:
        profile: name of the hardware profile.
        target: the compiler's name of the accelerator; "" where there is none.
        graph: name of the graph.
        requested: the provider that was asked for.
        actual: the provider that ONNX Runtime runs it with.
        emulated: whether the CPU stands in for the accelerator.
        reason: why this provider, in words.
        batch: samples in one run.
        shares: of each provider, the accelerator's first.
        partitions: pieces that the graph is cut into on the accelerator.
        boundary_bytes: that cross between accelerator and CPU in one run.
        cpu_operators: ONNX operator → how many of them run on the CPU.
        cache_identity: digest of all that the compiled form depends on; "" where nothing is compiled.
        estimated_run_s: one run on the accelerator at its peak rate, worked out and never measured; None where the
            profile states no peak rate.
        latency_simulated: whether an emulated run takes no less than that.
    """

    profile: str
    target: str
    graph: str
    requested: str
    actual: str
    emulated: bool
    reason: str
    batch: int | None
    shares: tuple[ProviderShare, ...]
    partitions: int
    boundary_bytes: int
    cpu_operators: Mapping[str, int]
    cache_identity: str
    estimated_run_s: float | None
    latency_simulated: bool = False

    def __str__(self) -> str:
        """Return it on one line, for people."""
        samples = "any number of samples" if self.batch is None else f"{self.batch} samples"
        if not self.is_divided:
            return f"{self.graph} on {self.actual}, {samples} a run"
        emulated = f", emulated by {self.actual}" if self.emulated else ""
        pieces = "1 partition" if self.partitions == 1 else f"{self.partitions} partitions"
        where = f"{self.graph} on {self.target or self.actual}{emulated}"
        return f"{where}: {self.offload:.1%} of its multiply-accumulates in {pieces}, {samples} a run"

    @property
    def is_divided(self) -> bool:
        """Whether it is divided between the CPU and an accelerator or another provider, be it all on one side."""
        return any(not share.on_cpu for share in self.shares)

    @property
    def offload(self) -> float:
        """The share, 0 to 1, of multiply-accumulates that do not run on the CPU; 0 where there are none."""
        total = sum(share.macs for share in self.shares)
        on_cpu = sum(share.macs for share in self.shares if share.on_cpu)
        return (total - on_cpu) / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as json.dumps takes it, the share that is offloaded with it."""
        fields: dict[str, Any] = json_value(self)
        return {**fields, "offload": self.offload}


def read_report(table: Fields) -> PlacementReport:
    """Read what ``to_json`` returned.

    Raises:
        FieldtuneError: the table's error, for a key that is missing or of another type.
    """
    operators = table.table("cpu_operators")
    return PlacementReport(
        profile=table.text("profile"),
        target=table.text("target"),
        graph=table.text("graph"),
        requested=table.text("requested"),
        actual=table.text("actual"),
        emulated=table.flag("emulated"),
        reason=table.text("reason"),
        batch=table.optional_integer("batch"),
        shares=tuple(
            ProviderShare(provider=share.text("provider"), nodes=share.integer("nodes"), macs=share.integer("macs"))
            for share in table.tables("shares")
        ),
        partitions=table.integer("partitions"),
        boundary_bytes=table.integer("boundary_bytes"),
        cpu_operators={operator: operators.integer(operator) for operator in operators},
        cache_identity=table.text("cache_identity"),
        estimated_run_s=table.optional_number("estimated_run_s"),
        latency_simulated=table.flag("latency_simulated", False),
    )
