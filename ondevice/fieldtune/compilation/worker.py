"""The process that compiles, which may crash or be ended at any time; ``child`` starts it.

Session creation is where providers compile. It takes minutes, and what a compiler does not expect can abort its process
("an implicit attribute of a Conv aborts the process", README of onnxsim 0.8.1). So it never happens in the user's.

The request comes as one line of JSON on standard input, which stays open for as long as the parent lives. The outcome
is written as JSON into the folder that the request names.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldtune.bundle import TensorSpec
from fieldtune.errors import CompileError, FieldtuneError
from fieldtune.files import json_value
from fieldtune.placement import Ran, RanPiece, open_recorded
from fieldtune.runtime import ProviderChoice, SessionSettings

OUTCOME_NAME = "outcome.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to compile.

    Attributes:
        graph: path of the .onnx file.
        inputs: what it is fed with.
        choice: the provider, with its options.
        config: entries of ONNX Runtime's session configuration.
        context: path of the ONNX file that the provider is to write its compiled form to; "" where it does not.
        folder: where the outcome goes.
        least_s: how long it takes at least, to simulate another compiler.
    """

    graph: str
    inputs: tuple[TensorSpec, ...]
    choice: ProviderChoice
    config: Mapping[str, str]
    context: str
    folder: str
    least_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        pieces: where ONNX Runtime runs the nodes of the graph.
        seconds: that opening the session took, compiling among it, or the simulation of it.
    """

    pieces: tuple[RanPiece, ...]
    seconds: float


def _compile_graph(request: Request) -> Outcome:
    """Open a session, which compiles the graph, and read back where its nodes run.

    Raises:
        InvalidBundle, ProviderUnavailable: as ``open_session``.
        CompileError: the provider writes no compiled form, or one that cannot be opened.
    """
    started = time.perf_counter()
    _, pieces = open_recorded(Path(request.graph), request.choice, request.config, request.inputs)
    time.sleep(max(request.least_s - (time.perf_counter() - started), 0))
    seconds = time.perf_counter() - started
    if request.context:
        _check_context(request)
    return Outcome(pieces=pieces, seconds=seconds)


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write an outcome for the parent."""
    pieces = [[piece.provider, [list(node) for node in piece.nodes]] for piece in outcome.pieces]
    text = json.dumps({"pieces": pieces, "seconds": outcome.seconds})
    (folder / OUTCOME_NAME).write_text(text, encoding="utf-8")


def read_outcome(folder: Path) -> Outcome:
    """Read what the process wrote, and remove it.

    Raises:
        CompileError: it failed with an error that its message explains.
    """
    path = folder / OUTCOME_NAME
    data = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    if "error" in data:
        raise CompileError(data["error"])
    pieces = tuple(RanPiece(provider, tuple(Ran(*node) for node in nodes)) for provider, nodes in data["pieces"])
    return Outcome(pieces=pieces, seconds=data["seconds"])


def request_line(request: Request) -> bytes:
    """Return a request as the process reads it."""
    return json.dumps(json_value(request)).encode() + b"\n"


def read_request(line: bytes) -> Request:
    """Return what ``request_line`` was given."""
    data: dict[str, Any] = json.loads(line)
    choice = data.pop("choice")
    settings = SessionSettings(**choice.pop("session_settings"))
    inputs = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in data.pop("inputs"))
    return Request(**data, inputs=inputs, choice=ProviderChoice(**choice, session_settings=settings))


def _check_context(request: Request) -> None:
    provider = request.choice.provider
    if not Path(request.context).is_file():
        raise CompileError(
            f"{request.graph}: {provider} wrote no compiled form: it neither has a cache of its own nor writes "
            "EPContext models"
        )
    try:
        open_recorded(Path(request.context), request.choice, {}, request.inputs)
    except FieldtuneError as error:
        raise CompileError(f"{request.graph}: {provider} cannot open what it compiled: {error}") from error


def _end_with_parent() -> None:
    """End this process and those that it starts when the parent closes its end of standard input, or dies.

    A process of its own waits for that where there can be one: ONNX Runtime 1.16.3 and 1.23.2 open sessions without
    letting other threads of Python run.
    """
    if not hasattr(os, "fork") or os.getpgrp() != os.getpid():
        threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    elif os.fork() == 0:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)


def _exit_at_end_of_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """Compile what the request names; return 0 where the outcome, a FieldtuneError among it, was written."""
    request = read_request(sys.stdin.buffer.readline())
    _end_with_parent()
    folder = Path(request.folder)
    try:
        write_outcome(_compile_graph(request), folder)
    except FieldtuneError as error:
        (folder / OUTCOME_NAME).write_text(json.dumps({"error": str(error)}), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    # Past a vendor's destructors, which have been seen to crash processes that had done their work.
    os._exit(0)
