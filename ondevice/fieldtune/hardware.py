"""Hardware profiles: what a device is and how it should be used, one hand-written TOML file a device.

Format 1.0; ``hw_profiles/README.md`` lists every key. A reader refuses another major version and warns on a later
minor one.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from fieldtune.backends import Backend
from fieldtune.errors import InvalidProfile, UnsupportedFormat
from fieldtune.fields import Table
from fieldtune.manifest import check_version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT_VERSION = "1.0"
FOLDERS_VARIABLE = "FIELDTUNE_PROFILES"
"""The environment variable that names further folders of profiles; the first folder that has a name wins."""

Support: TypeAlias = Literal["current", "legacy"]
Architecture: TypeAlias = Literal["x86_64", "aarch64", "any"]
OnMissing: TypeAlias = Literal["error", "emulate", "cpu"]
GraphOptimization: TypeAlias = Literal["all", "extended", "basic", "off"]
Name = TypeVar("Name", bound=str)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CpuSpec:
    """The processor; None where the profile does not say."""

    architecture: Architecture = "any"
    model: str = ""
    cores: int | None = None
    frequency_hz: int | None = None
    features: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemorySpec:
    """The main memory; None where the profile does not say.

    Attributes:
        total_bytes: all of it.
        available_for_app_bytes: what system and other programs leave.
    """

    total_bytes: int | None = None
    available_for_app_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionSpec:
    """Where the graphs run.

    Attributes:
        provider: ONNX Runtime's name of the execution provider.
        options: of the provider.
        on_missing: what to do where the installed ONNX Runtime lacks it: fail, emulate it, or use the CPU.
    """

    provider: str = "CPUExecutionProvider"
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_missing: OnMissing = "error"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSpec:
    """How ONNX Runtime is used.

    Attributes:
        ort_version: the oldest one that is known to run here.
        threads: of one operator; 0 is one for every core.
        prepacking: whether weights are kept a second time in the order that the kernels like: faster, and more memory.
        arena: whether freed memory is kept for the next step: faster, and more memory.
        memory_pattern: whether the memory of a step is planned from the shapes of the one before it.
        graph_optimization: how far graphs are rewritten when they are loaded.
    """

    ort_version: str = "1.16.3"
    threads: int = 0
    prepacking: bool = True
    arena: bool = True
    memory_pattern: bool = True
    graph_optimization: GraphOptimization = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """Training defaults that fit the device.

    Attributes:
        batch_size: examples that go through the graph together.
        gradient_accumulation: batches of one optimizer step.
        max_length: in tokens; None for the model's own.
        backend: what computes gradients and applies them; auto decides by what is installed.
    """

    batch_size: int = 8
    gradient_accumulation: int = 1
    max_length: int | None = None
    backend: Backend = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """What compiles and runs the frozen part beside the CPU.

    Attributes:
        target: the compiler's name of it.
        peak_tops: int8 operations per second at best, in 1e12.
        batch: samples in one run of a compiled graph.
        extra: what only this kind of accelerator knows.
    """

    target: str
    peak_tops: float
    batch: int = 1
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where figures of the profile come from."""

    what: str
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HardwareProfile:
    """All of a profile; ``accelerator`` is None where the CPU does everything."""

    name: str
    title: str
    support: Support
    description: str
    cpu: CpuSpec
    memory: MemorySpec
    execution: ExecutionSpec
    runtime: RuntimeSpec
    training: TrainingSpec
    accelerator: Accelerator | None
    sources: tuple[Source, ...]
    format_version: str = FORMAT_VERSION


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a profile by its name, or by its path if that ends in .toml.

    Raises:
        InvalidProfile: no such profile, or one that cannot be read; the message names file and key.
    """
    if str(name_or_path).endswith(".toml"):
        return _read(Path(name_or_path))
    name, paths = str(name_or_path), _profile_paths()
    if name not in paths:
        # A low bar, so that "rpi4" finds raspberry-pi-5; whatever it misses is in the list.
        near = difflib.get_close_matches(name.lower(), paths, n=3, cutoff=0.3)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InvalidProfile(
            f"no hardware profile {name!r}.{guess} There are: {', '.join(sorted(paths)) or 'none'}. Give one of them, "
            f"the path of a .toml file, or set {FOLDERS_VARIABLE} to a folder of profiles"
        )
    return _read(paths[name])


def profile_names() -> tuple[str, ...]:
    """Return the names of all profiles that can be found, sorted.

    Raises:
        InvalidProfile: if the environment names a folder that is not one.
    """
    return tuple(sorted(_profile_paths()))


def read_profile(text: str, where: str) -> HardwareProfile:
    """Read the text of a profile.

    Raises:
        InvalidProfile: not TOML, another major version, or a key that is missing, unknown or of another type.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidProfile(f"{where}: not TOML: {error}") from error
    top = Table(data, where, InvalidProfile)
    version = top.text("format_version")
    try:
        later = check_version(version, FORMAT_VERSION, where)
    except UnsupportedFormat as error:
        raise InvalidProfile(str(error)) from error
    accelerator = top.optional_table("accelerator")
    profile = HardwareProfile(
        format_version=version,
        name=top.text("name"),
        title=top.text("title"),
        support=_one_of(top, "support", get_args(Support), "current"),
        description=top.text("description", ""),
        cpu=_cpu(top.table("cpu", {})),
        memory=_memory(top.table("memory", {})),
        execution=_execution(top.table("execution", {})),
        runtime=_runtime(top.table("runtime", {}), where),
        training=_training(top.table("training", {})),
        accelerator=_accelerator(accelerator) if accelerator else None,
        sources=tuple(Source(what=source.text("what"), where=source.text("where")) for source in top.tables("source")),
    )
    if not later:
        top.done()
    return profile


def _profile_paths() -> dict[str, Path]:
    named = [Path(folder) for folder in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    for folder in named:
        if not folder.is_dir():
            raise InvalidProfile(f"{FOLDERS_VARIABLE} names {folder}, which is not a folder; correct or unset it")
    installed = Path(__file__).parent / "hw_profiles"
    # An editable install runs from the source tree, where the profiles lie beside the packages' folders.
    own = installed if installed.is_dir() else Path(__file__).parents[2] / "hw_profiles"
    paths: dict[str, Path] = {}
    for folder in (*named, own):
        for path in sorted(folder.glob("*.toml")):
            paths.setdefault(path.stem, path)
    return paths


def _read(path: Path) -> HardwareProfile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidProfile(f"{path}: cannot be read as a hardware profile: {error}") from error
    profile = read_profile(text, str(path))
    if profile.name != path.stem:
        raise InvalidProfile(
            f"{path}: 'name' is {profile.name!r}; expected {path.stem!r}, as the file is called: change one of them"
        )
    return profile


def _cpu(table: Table) -> CpuSpec:
    default = CpuSpec()
    return CpuSpec(
        architecture=_one_of(table, "architecture", get_args(Architecture), default.architecture),
        model=table.text("model", default.model),
        cores=_optional(table, "cores"),
        frequency_hz=_optional(table, "frequency_hz"),
        features=table.texts("features", list(default.features)),
    )


def _memory(table: Table) -> MemorySpec:
    return MemorySpec(
        total_bytes=_optional(table, "total_bytes"),
        available_for_app_bytes=_optional(table, "available_for_app_bytes"),
    )


def _execution(table: Table) -> ExecutionSpec:
    default = ExecutionSpec()
    options = table.table("options", default.options)
    return ExecutionSpec(
        provider=table.text("provider", default.provider),
        # ONNX Runtime takes every provider option as a string; a number would be turned into one nobody has seen.
        options={key: options.text(key) for key in options},
        on_missing=_one_of(table, "on_missing", get_args(OnMissing), default.on_missing),
    )


def _runtime(table: Table, where: str) -> RuntimeSpec:
    default = RuntimeSpec()
    version = table.text("ort_version", default.ort_version)
    if not all(part.isdigit() for part in version.split(".")):
        raise InvalidProfile(f"{where}: runtime: 'ort_version' is {version!r}; expected numbers, as '1.16.3'")
    return RuntimeSpec(
        ort_version=version,
        threads=table.integer("threads", default.threads, least=0),
        prepacking=table.flag("prepacking", default.prepacking),
        arena=table.flag("arena", default.arena),
        memory_pattern=table.flag("memory_pattern", default.memory_pattern),
        graph_optimization=_one_of(
            table, "graph_optimization", get_args(GraphOptimization), default.graph_optimization
        ),
    )


def _training(table: Table) -> TrainingSpec:
    default = TrainingSpec()
    return TrainingSpec(
        batch_size=table.integer("batch_size", default.batch_size, least=1),
        gradient_accumulation=table.integer("gradient_accumulation", default.gradient_accumulation, least=1),
        max_length=_optional(table, "max_length"),
        backend=_one_of(table, "backend", get_args(Backend), default.backend),
    )


def _accelerator(table: Table) -> Accelerator:
    return Accelerator(
        target=table.text("target"),
        peak_tops=table.number("peak_tops"),
        batch=table.integer("batch", 1, least=1),
        extra=table.plain("extra", {}),
    )


def _optional(table: Table, key: str) -> int | None:
    """Return a positive integer, or None where the key is missing or 0."""
    return table.integer(key, 0, least=0) or None


def _one_of(table: Table, key: str, choices: tuple[Name, ...], default: Name) -> Name:
    found = table.choice(key, choices, default)
    return next(choice for choice in choices if choice == found)
