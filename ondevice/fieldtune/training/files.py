"""A training run as files: the adapter, the report for machines and the page for people."""

import tempfile
from pathlib import Path

from fieldtune.adapters import Adapter, write_adapter
from fieldtune.errors import OutputError
from fieldtune.files import json_text
from fieldtune.training.page import report_page
from fieldtune.training.report import TrainReport

REPORT_NAME = "train_report.json"
PAGE_NAME = "report.html"


def write_run(report: TrainReport, folder: Path) -> None:
    """Write a PEFT directory with the run's reports in it.

    Args:
        report: of the run.
        folder: an empty one.

    Raises:
        OutputError: the adapter cannot be written.
        OSError: a report cannot be written.
    """
    # An adapter wants an empty folder, so it comes first.
    write_adapter(report.adapter, folder)
    (folder / REPORT_NAME).write_text(json_text(report.to_json()), encoding="utf-8")
    (folder / PAGE_NAME).write_text(report_page(report), encoding="utf-8")


def rescue(adapter: Adapter) -> str:
    """Write an adapter whose place cannot be written wherever there is room; say in words where it is."""
    parents = (Path(tempfile.gettempdir()), Path.home(), Path.cwd())
    for parent in parents:
        folder = _new_folder_with(adapter, parent)
        if folder is not None:
            return f"the adapter is safe in {folder}"
    return f"the adapter could not be saved in {', '.join(map(str, parents))} either"


def _new_folder_with(adapter: Adapter, parent: Path) -> Path | None:
    try:
        folder = Path(tempfile.mkdtemp(prefix="fieldtune-adapter-", dir=parent))
        write_adapter(adapter, folder)
    except (OSError, OutputError):
        return None
    return folder
