"""``fieldtune evaluate``: loss and accuracy of an adapter on examples."""

import dataclasses
from typing import TYPE_CHECKING

from fieldtune.activations import CacheSettings
from fieldtune.cli.shared import (
    DEFAULT_PROFILE,
    BundlePath,
    ColumnFlags,
    FilePath,
    JsonFlag,
    OnMissingFlag,
    OptionalFolder,
    ProfileName,
    UsageError,
    evaluation_rows,
    named_columns,
    new_table,
    print_json,
    print_tables,
    say,
)

if TYPE_CHECKING:
    from rich.console import Console

    from fieldtune.cli.shared import Opened


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure an adapter, of any rank and alpha, on examples.

    Examples:
      fieldtune evaluate BUNDLE --data eval.jsonl
      fieldtune evaluate BUNDLE --data eval.jsonl --adapter adapter --json
    """

    bundle: BundlePath
    """Folder that fieldtune-offline build made."""

    data: FilePath
    """Examples: .jsonl, .json, .ndjson, .csv or .tsv; or a folder with a sub-folder of images a label."""

    adapter: OptionalFolder = None
    """Adapter to measure; the bundle's initial one if not given."""

    profile: ProfileName = DEFAULT_PROFILE
    """Hardware profile: a name that fieldtune profiles lists, or a .toml file."""

    on_missing: OnMissingFlag = None
    """If the profile's provider is missing: fail, emulate its accelerator, or use the CPU; else as the profile says."""

    batch_size: int | None = None
    """Examples that go through the graph together; if not given, the profile's."""

    max_length: int | None = None
    """Tokens that longer texts are cut to; if not given, the profile's or the model's limit."""

    strict: bool = False
    """Refuse texts that are too long instead of cutting them."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""

    columns: ColumnFlags = dataclasses.field(default_factory=ColumnFlags)
    cache: CacheSettings = dataclasses.field(default_factory=CacheSettings)


def run(command: Evaluate, console: "Console") -> int:
    """Evaluate and print the table; return the exit code."""
    from fieldtune.adapters import adapter_labels, initial_adapter, read_adapter
    from fieldtune.cli.shared import counted, evaluation_progress, open_named
    from fieldtune.tasks import open_task
    from fieldtune.training import DataCounts, EvaluationGraph, evaluate_with, open_batches

    opened = open_named(command.bundle, command.profile, command.on_missing)
    bundle = opened.bundle
    say(console, f"provider: {opened.choice}")
    adapter = read_adapter(command.adapter) if command.adapter else initial_adapter(bundle)
    batch_size, max_length = _sizes(command, opened)
    task = open_task(bundle, adapter_labels(adapter, bundle.manifest))
    examples, note = task.read(command.data, named_columns(command.columns))
    say(console, f"{command.data}: {note}")
    encoded = task.encode(examples, max_length=max_length, strict=command.strict)
    counts = DataCounts.of(encoded)
    with open_batches(bundle, opened.profile, opened.choice, command.cache) as source:
        graph = EvaluationGraph(bundle, source.choice, source.graphs["eval"])
        for placement in (source.split.placement if source.split else None, graph.placement):
            if placement:
                say(console, f"placement: {placement}")
        with evaluation_progress(console) as ticks:
            evaluation = evaluate_with(graph.forward(adapter), encoded, task, source, batch_size, ticks)
        split = source.split
    if command.as_json:
        print_json(
            {
                "bundle": bundle.root,
                "adapter": adapter.where,
                "data": command.data,
                "provider": opened.choice.to_json(),
                "split": split,
                "placement": graph.placement and graph.placement.to_json(),
                "counts": counts,
                "evaluation": evaluation.to_json(),
            }
        )
        return 0
    table = new_table(f"{adapter.where}: {counted(counts)}", ("", ">"))
    for row in evaluation_rows((evaluation,)):
        table.add_row(*row)
    print_tables(table)
    return 0


def _sizes(command: Evaluate, opened: "Opened") -> tuple[int, int | None]:
    from fieldtune.data import batch_limit, length_limit

    manifest, profile = opened.bundle.manifest, opened.profile
    inputs = manifest.graphs["eval"].inputs
    if command.batch_size is not None and command.batch_size < 1:
        raise UsageError(f"--batch-size is {command.batch_size}; expected at least 1")
    try:
        return (
            batch_limit(command.batch_size, profile, inputs),
            length_limit(command.max_length, profile, inputs, manifest.text),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
