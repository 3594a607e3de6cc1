"""Flags that several subcommands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

from fieldtune.hardware import OnMissing

DEFAULT_PROFILE = "cpu-generic"

BundlePath: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
FilePath: TypeAlias = Annotated[Path, tyro.conf.arg(metavar="FILE")]
FolderPath: TypeAlias = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OptionalFolder: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
ProfileName: TypeAlias = Annotated[str, tyro.conf.arg(metavar="NAME")]
OnMissingFlag: TypeAlias = Annotated[OnMissing | None, tyro.conf.arg(metavar="{error,emulate,cpu}")]
JsonFlag: TypeAlias = Annotated[bool, tyro.conf.arg(name="json")]
