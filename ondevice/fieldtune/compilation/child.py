"""Running the process that compiles: bounded in time, ended with its children, its crashes in words."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from fieldtune.compilation.worker import OUTCOME_NAME, Outcome, Request, read_outcome, request_line
from fieldtune.errors import CompileError

_LOG_NAME = "compiler.log"
_SAID_LINES = 8
# As ``python -m``, but without the current folder among those that modules are looked for in.
_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from fieldtune.compilation.worker import main; main()"
_MEANINGS = {
    "SIGABRT": "the compiler aborted",
    "SIGSEGV": "the compiler crashed",
    "SIGKILL": "it was killed; the system does that when memory runs out",
    "SIGILL": "it was built for another processor",
}


def run_worker(request: Request, timeout_s: float) -> Outcome:
    """Compile in a process of its own.

    An interrupt ends the process with its children before it is passed on.

    Args:
        request: what to compile; its folder is empty or holds the compiled form so far.
        timeout_s: how long it may take.

    Raises:
        CompileError: it takes longer, crashes, or fails; with the signal's name and the last lines of its output.
    """
    folder = Path(request.folder)
    log_path = folder / _LOG_NAME
    try:
        # A file, not a pipe: a compiler that says a lot would wait for somebody to read it.
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
            try:
                code = _wait(process, request, timeout_s)
            finally:
                _end(process)
        if code != 0 or not (folder / OUTCOME_NAME).is_file():
            raise CompileError(f"{_subject(request)} {_ending(code)}{_last_words(log_path)}")
        return read_outcome(folder)
    finally:
        log_path.unlink(missing_ok=True)


def _wait(process: "subprocess.Popen[bytes]", request: Request, timeout_s: float) -> int:
    assert process.stdin is not None
    # Options may hold keys, so they go neither into the command line nor into the environment. The pipe stays open:
    # its end is how the child knows that this process is gone.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request_line(request))
        process.stdin.flush()
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"{_subject(request)} took longer than {timeout_s:g} s and was ended; a copy of the profile with a longer "
            "execution.compile_timeout_s gives it more time"
        ) from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, whether it is still there or not."""
    if hasattr(os, "killpg"):
        # Its own session has its number, and what it started is in it until the last one has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _environment() -> dict[str, str]:
    """Return the environment, in which the child finds this very package."""
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def _subject(request: Request) -> str:
    verb = "opening" if request.choice.emulated else "compiling"
    return f"{request.graph}: {verb} it with {request.choice.provider}"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"ended with signal {-code}"
    meaning = _MEANINGS.get(name)
    return f"ended with {name}" + (f" ({meaning})" if meaning else "")


def _last_words(log: Path) -> str:
    text = log.read_bytes().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_SAID_LINES:]
    return "".join(f"\n  | {line}" for line in lines) if lines else "; it said nothing"
