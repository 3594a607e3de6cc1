"""Every error that a user can meet, in one tree.

FieldtuneError                  anything a user can cause or repair; printed as one line, exit code 1
├── InvalidProfile              a hardware profile that cannot be read
├── InvalidBundle               a bundle that cannot be used
│   ├── UnsupportedFormat       written in a major version of the format that this release does not know
│   └── CorruptFile             a file that is missing, altered, truncated or outside the bundle
├── InvalidData                 examples that cannot be read; every fault found is listed, up to 20
├── InvalidAdapter              a directory that is not a PEFT adapter
│   └── AdapterMismatch         an adapter for another base model, target set, rank or label count
├── ProviderUnavailable         no ONNX Runtime, two of them, or not the execution provider that was asked for
├── PlacementRefused            what the accelerator would refuse, or too little of the model placed on it
├── CompileError                compiling for the accelerator failed, or what was compiled is stale or foreign
├── BackendUnavailable          a training backend that was asked for and cannot be used here
├── TrainingDiverged            the loss or the gradient is no longer a number
├── CheckpointError             a checkpoint that cannot be read or written
├── OutputError                 an output folder that exists, a full disk, no permission to write
└── ExportError                 (dev box) a model that could not be turned into a bundle
    ├── UnsupportedModel        a model, task or adapter setting that is not supported, by name
    └── ParityError             the graphs do not compute what torch computes

A message says what is wrong, where (file and key), what was found, what was expected and what to do. Mistakes of a
programmer stay ValueError and TypeError.
"""

from collections.abc import Sequence


class FieldtuneError(Exception):
    """Anything that a user can cause or repair."""


class InvalidProfile(FieldtuneError):
    """A hardware profile that cannot be read."""


class InvalidBundle(FieldtuneError):
    """A bundle that cannot be used."""


class UnsupportedFormat(InvalidBundle):
    """A file in a major version of its format that this release does not know."""


class CorruptFile(InvalidBundle):
    """A file of a bundle that is missing, altered, truncated or outside the bundle."""


class InvalidData(FieldtuneError):
    """Examples that cannot be read."""


class InvalidAdapter(FieldtuneError):
    """A directory that is not a PEFT adapter."""


class AdapterMismatch(InvalidAdapter):
    """An adapter that does not fit the bundle."""


class ProviderUnavailable(FieldtuneError):
    """ONNX Runtime or the execution provider that was asked for is not there."""


class PlacementRefused(FieldtuneError):
    """A graph that the accelerator would refuse, or of which too little or in too many pieces would run on it."""


class CompileError(FieldtuneError):
    """Compiling for the accelerator failed, or what was compiled before does not belong to what is to run."""


class BackendUnavailable(FieldtuneError):
    """A training backend that was asked for and cannot be used here."""


class TrainingDiverged(FieldtuneError):
    """The loss or the gradient is no longer a number."""


class CheckpointError(FieldtuneError):
    """A checkpoint that cannot be read or written."""


class OutputError(FieldtuneError):
    """An output that cannot be written."""


class ExportError(FieldtuneError):
    """A model that could not be turned into a bundle."""


class UnsupportedModel(ExportError):
    """A model, task or adapter setting that is not supported."""


class ParityError(ExportError):
    """The graphs do not compute what torch computes."""


MOST_FAULTS = 20
"""How many faults one message lists; more are counted."""
MOST_NAMES = 20
"""How many names one line of a message quotes; more are counted."""


def quoted(names: Sequence[str]) -> str:
    """Name columns, labels and their like for a message, a long list shortened."""
    more = len(names) - MOST_NAMES
    shown = ", ".join(map(repr, names[:MOST_NAMES]))
    return f"{shown}, … and {more} more" if more > 0 else shown


def listed(faults: Sequence[str]) -> str:
    """Join faults into the indented list that ends a message, at most MOST_FAULTS of them."""
    lines = [f"\n  - {fault}" for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        lines.append(f"\n  … and {len(faults) - MOST_FAULTS} more")
    return "".join(lines)
