"""Flags that several subcommands share."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from fieldtune.hardware.on_missing import OnMissing

if TYPE_CHECKING:
    from fieldtune.data.examples import Columns

DEFAULT_PROFILE = "cpu-generic"

BundlePath: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
FilePath: TypeAlias = Annotated[Path, tyro.conf.arg(metavar="FILE")]
FolderPath: TypeAlias = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OptionalFolder: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
ProfileName: TypeAlias = Annotated[str, tyro.conf.arg(metavar="NAME")]
ColumnName: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
OnMissingFlag: TypeAlias = Annotated[OnMissing | None, tyro.conf.arg(metavar="{error,emulate,cpu}")]
JsonFlag: TypeAlias = Annotated[bool, tyro.conf.arg(name="json")]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFlags:
    """Which columns hold what; where not given, they are guessed from their names."""

    text_column: ColumnName = None
    """Holds the text."""

    image_column: ColumnName = None
    """Holds the image's file, seen from the folder of the file with the column."""

    label_column: ColumnName = None
    """Holds the label."""

    prompt_column: ColumnName = None
    """Holds what the model is asked."""

    completion_column: ColumnName = None
    """Holds what the model should answer."""

    def columns(self) -> "Columns":
        """Return them as the data half takes them."""
        from fieldtune.data.examples import Columns

        return Columns(
            text=self.text_column,
            image=self.image_column,
            label=self.label_column,
            prompt=self.prompt_column,
            completion=self.completion_column,
        )
