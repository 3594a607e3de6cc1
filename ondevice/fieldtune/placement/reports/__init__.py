"""What was asked to run where and what does, and whether that is what a profile demands.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.placement.reports.holding import demand_faults, hold, hold_to
    from fieldtune.placement.reports.report import PlacementReport, ProviderShare, read_report
    from fieldtune.placement.reports.reporting import accelerator_report, plain_report, plan_shares, provider_report

__all__ = [
    "PlacementReport",
    "ProviderShare",
    "accelerator_report",
    "demand_faults",
    "hold",
    "hold_to",
    "plain_report",
    "plan_shares",
    "provider_report",
    "read_report",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "holding": (
                "demand_faults",
                "hold",
                "hold_to",
            ),
            "report": (
                "PlacementReport",
                "ProviderShare",
                "read_report",
            ),
            "reporting": (
                "accelerator_report",
                "plain_report",
                "plan_shares",
                "provider_report",
            ),
        },
    )
