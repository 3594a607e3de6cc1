"""What every task answers for: its columns, its examples, their labels and weights, its figures and its answers.

Nothing outside a task's own module knows more of it than this.
"""

import abc
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy.typing as npt

from fieldtune.bundle import Batch, ImageSpec, TaskSpec, TextSpec
from fieldtune.data import (
    Choice,
    Columns,
    EncodedSet,
    Example,
    Fault,
    IntArray,
    Report,
    Row,
    load_tokenizer,
    read_examples,
    read_rows,
)
from fieldtune.errors import InvalidBundle
from fieldtune.serving import LoadedAdapter, Runner

if TYPE_CHECKING:
    import tokenizers

Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What eval.onnx gives beside loss and weight, by output name."""
Note: TypeAlias = Callable[[str], None]
"""Is told a line for people."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: by which programs know it.
        value: of it; where the unit is "%", a part of 1.
        unit: "%" or "" for a plain number.
        better: which direction is the better one; None for what adapting does not change.
        title: by which people know it; the name in words if not given.
    """

    name: str
    value: float
    unit: Literal["%", ""] = ""
    better: Literal["higher", "lower"] | None = "higher"
    title: str = ""

    @property
    def words(self) -> str:
        """What people call it."""
        return self.title or self.name.replace("_", " ")


class Meter(Protocol):
    """Counts what a task's figures are made of, batch by batch."""

    def add(self, indices: IntArray, batch: Batch, outputs: Outputs) -> None:
        """Count one batch.

        Args:
            indices: of its examples in the set that the meter was made for, int64, shape (rows,); a static graph's
                batch may have padding rows behind theirs.
            batch: what went into the graph.
            outputs: what came out of it.
        """

    def figures(self, loss: float) -> tuple[Figure, ...]:
        """Return the figures of all batches, the one that matters most first.

        Args:
            loss: mean, in nats.
        """


class Answer(Protocol):
    """What a task answers."""

    @property
    def truncated(self) -> bool | None:
        """Whether what was asked was longer than the model takes, so that its end did not count; None of no text."""

    def record(self) -> Mapping[str, object]:
        """Return it for programs, as json.dumps takes it."""

    def lines(self, most: int) -> Sequence[str]:
        """Return it for people: the answer itself, then up to ``most - 1`` lines more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """Something to answer: as people see it, and as the task takes it."""

    shown: str
    content: Any


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NoOptions:
    """The options of a task that has none of its own."""


class Task(abc.ABC):
    """One task of one bundle; a task is a subclass in a module of its own.

    Threads can share it: the tokenizer, the one thing that changes, has a lock.

    Args:
        spec: the bundle's, with the names of the labels that count.
        text: how the bundle takes texts; None where it takes none.
        image: how it takes images; None where it takes none.
        tokenizer_path: of its tokenizer.
    """

    name: ClassVar[str]
    """As optimum's TasksManager has it."""
    columns: ClassVar[Mapping[str, str]]
    """What its files' columns hold, and a line of help for the flag that names the column."""
    item: ClassVar[str]
    """What is answered, in one word: text, image, question."""
    options: ClassVar[type[Any]] = NoOptions
    """A dataclass: what ``fieldtune run`` takes for this task alone; its docs are the flags' help."""
    takes: ClassVar[frozenset[str]] = frozenset({"batch_size", "max_length", "strict"})
    """Which of the settings that tasks share it has."""
    one_label: ClassVar[bool] = False
    """Whether an example has one label, a class, which a linear probe can tell from activations."""
    streams: ClassVar[bool] = False
    """Whether an answer is iterated over as it is written, one at a time."""
    line_by_line: ClassVar[bool] = True
    """Whether each line of standard input is something to answer, or all of it is one."""

    def __init__(
        self,
        spec: TaskSpec,
        *,
        text: TextSpec | None = None,
        image: ImageSpec | None = None,
        tokenizer_path: Path | None = None,
    ) -> None:
        self.spec = spec
        self._text, self._image, self._tokenizer_path = text, image, tokenizer_path
        self.lock = threading.Lock()

    @property
    def words(self) -> str:
        """Its name for people."""
        return self.name.replace("-", " ")

    @property
    def text(self) -> TextSpec:
        """How the bundle takes texts."""
        if self._text is None:
            raise ValueError(f"{self.name}: the bundle takes no texts")
        return self._text

    @property
    def image(self) -> ImageSpec:
        """How the bundle takes images."""
        if self._image is None:
            raise ValueError(f"{self.name}: the bundle takes no images")
        return self._image

    @functools.cached_property
    def tokenizer(self) -> "tokenizers.Tokenizer":
        """The bundle's tokenizer, loaded on first use; to be used with ``lock`` held.

        Raises:
            CorruptFile: the installed tokenizers package cannot read it.
        """
        if self._tokenizer_path is None:
            raise ValueError(f"{self.name}: there is no tokenizer")
        return load_tokenizer(self._tokenizer_path)

    # --- examples

    def read(
        self, path: str | Path, columns: Columns | None = None, *, labelled: bool = True
    ) -> tuple[tuple[Example, ...], str]:
        """Read the examples of a file.

        Args:
            path: a .jsonl, .json, .ndjson, .csv or .tsv file; where files are named in it, they are seen from its
                folder. Some tasks read folders, too.
            columns: names of columns; what is left out is guessed.
            labelled: whether what is to be learned must be there. If not, it is not read: the file only says what to
                run.

        Returns:
            The examples in the file's order, and a line for people that says which columns were taken and which
            guessed.

        Raises:
            InvalidData: the file cannot be read, holds nothing, or has faulty lines; all of them are named, up to 20.
        """
        return read_examples(Path(path), self, columns or {}, labelled=labelled)

    def rows(self, path: Path) -> tuple[list[Row], list[Fault]]:
        """Return the rows of a file that are well formed, and the faults of the others, as ``read_rows`` does."""
        return read_rows(path)

    @abc.abstractmethod
    def choose(self, rows: Sequence[Row], named: Columns, *, labelled: bool) -> Choice:
        """Choose which columns hold what.

        Raises:
            InvalidData: a named column is missing, or no guess can be made.
        """

    @abc.abstractmethod
    def read_row(self, row: Row, choice: Choice, file: Path, fault: Report, *, labelled: bool) -> Example | None:
        """Return the example of a row; None after a fault, of which ``fault`` is told."""

    def advice(self, rows: Sequence[Row], choice: Choice) -> str:
        """Return what to add to a message about faulty rows; "" for nothing."""
        return ""

    @abc.abstractmethod
    def encode(self, examples: Sequence[Any], *, max_length: int | None = None, strict: bool = False) -> EncodedSet:
        """Encode examples, each with the weight that its labels have.

        Args:
            examples: as ``read`` returns them.
            max_length: tokens that a text may have; the model's own limit if None. Of no meaning for images.
            strict: refuse texts that are too long instead of cutting them.

        Raises:
            InvalidData: a length that the model cannot take, or examples that cannot be encoded; every one is named,
                up to 20.
            CorruptFile: the installed tokenizers package cannot read the bundle's tokenizer.
            TypeError: examples of another task.
        """

    @abc.abstractmethod
    def meter(self, encoded: EncodedSet) -> Meter:
        """Return what measures an evaluation on examples."""

    # --- answers

    def check_runner(self, runner: Runner) -> None:
        """Check that a runner's bundle is for this task.

        Raises:
            InvalidBundle: it is for another one.
        """
        task = runner.bundle.manifest.task.name
        if task != self.name:
            raise InvalidBundle(f"{runner.bundle.root}: is a bundle for {task}; {self.name} was asked of it")

    def check_options(self, options: Any) -> None:  # noqa: B027 (most have none)
        """Check that options fit each other.

        Raises:
            ValueError: with the flags in question.
        """

    def asking_flags(self, options: Any) -> Sequence[str]:
        """Return the flags among the options that say what to answer, in place of arguments, file and standard input.

        None where the options only say how to answer.
        """
        return ()

    def given(self, texts: Sequence[str], options: Any, note: Note) -> list[Item]:
        """Return what texts of a command line, or of standard input, ask for.

        There are no texts where ``asking_flags`` names what asks.
        """
        return [Item(text, text) for text in texts]

    @abc.abstractmethod
    def asked(self, example: Any, options: Any) -> Item:
        """Return what an example of a file asks for, its label aside."""

    @abc.abstractmethod
    def answer(
        self,
        runner: Runner,
        contents: Sequence[Any],
        adapter: LoadedAdapter | None = None,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        strict: bool = False,
        options: Any = None,
    ) -> Sequence[Answer]:
        """Answer, in the order of what is asked.

        Args:
            runner: of the same bundle.
            contents: of items: what each task takes.
            adapter: its head and its labels count; the bundle's initial one if None.
            batch_size: how many go through the graph together; the static graph's or the profile's if None.
            max_length: tokens of a text that count; what graph, profile and model take if None.
            strict: refuse texts that are longer instead of cutting them.
            options: of the task; the defaults if None.

        Raises:
            InvalidBundle: the runner's bundle is for another task.
            InvalidData: what cannot be answered; every one is named, up to 20.
            ValueError: a batch size or maximum length that the bundle's static graphs do not take.
        """
