"""A placement report as a table."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from fieldtune.placement import PlacementReport

_IDENTITY_DIGITS = 16


def placement_table(report: "PlacementReport") -> "Table":
    """Return where a graph runs, a line for each thing that one asks about it."""
    from fieldtune.cli.shared.results import new_table, percent

    where = f" on {report.target}" if report.target else ""
    table = new_table(f"Placement of {report.graph}{where}, profile {report.profile}")
    on_accelerator = "would run on" if report.emulated else "runs on"
    table.add_row("requested", report.requested)
    table.add_row("actual", report.actual)
    table.add_row("emulated", "yes" if report.emulated else "no")
    table.add_row("reason", report.reason)
    table.add_row("batch", "any" if report.batch is None else str(report.batch))
    for share in report.shares:
        said = f"{share.nodes:,} nodes, {_macs(share.macs)} multiply-accumulates a run"
        table.add_row(f"{on_accelerator} {share.provider}", said)
    if report.is_divided:
        table.add_row("offload", f"{percent(report.offload)} of the multiply-accumulates")
        table.add_row("partitions", str(report.partitions))
        table.add_row("boundary", f"{report.boundary_bytes:,} bytes a run between accelerator and CPU")
    operators = ", ".join(f"{count} {operator}" for operator, count in report.cpu_operators.items())
    table.add_row("operators on the CPU", operators or "none")
    if report.estimated_run_s is not None:
        least = f"{report.estimated_run_s * 1e3:.3g} ms"
        table.add_row("estimated run", f"{least} or more: an estimate at the accelerator's peak rate, not measured")
    if report.latency_simulated:
        table.add_row("simulated latency", "each emulated run takes no less than the estimate")
    if report.cache_identity:
        table.add_row("compiled identity", report.cache_identity[:_IDENTITY_DIGITS])
    return table


def _macs(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
