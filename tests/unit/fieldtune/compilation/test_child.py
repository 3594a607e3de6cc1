"""The process that compiles, made to misbehave as compilers do: by a sitecustomize module that only it imports."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from builders import CPU, tensor_spec
from fieldtune.compilation.child import run_worker
from fieldtune.compilation.worker import Request, request_line
from fieldtune.errors import CompileError
from fieldtune.runtime.providers import ProviderChoice, SessionSettings

PRELUDE = "import sys\nif any('compilation.worker' in argument for argument in sys.orig_argv):\n"


@pytest.fixture
def request_of(tmp_path):
    """The function that makes a request for a graph that is not there."""
    folder = tmp_path / "entry"
    folder.mkdir()
    choice = ProviderChoice(
        provider=CPU, requested=CPU, options={}, session_settings=SessionSettings(), reason="", plugin_library=""
    )
    return lambda: Request(
        graph=str(tmp_path / "none.onnx"),
        inputs=(tensor_spec("x", 1, 3),),
        choice=choice,
        config={},
        context="",
        folder=str(folder),
    )


@pytest.fixture
def behave(tmp_path, monkeypatch):
    """The function that makes the process run these lines when it starts."""

    def make(*lines):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(PRELUDE + "".join(f"    {line}\n" for line in lines))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return make


def _gone(pid, seconds=10.0):
    """Wait until a process is gone, or only left to be reaped."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_an_error_that_is_explained_comes_back_as_it_is(request_of, tmp_path):
    with pytest.raises(CompileError, match=r"none\.onnx: ONNX Runtime .* cannot load it") as caught:
        run_worker(request_of(), 60)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "entry").iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            (
                "import os, sys",
                "print('F compiler.cpp: implicit attribute', file=sys.stderr, flush=True)",
                "os.abort()",
            ),
            (
                r"none\.onnx: compiling it with CPUExecutionProvider ended with SIGABRT \(the compiler aborted\)"
                r"\n  \| F compiler\.cpp: implicit attribute$"
            ),
        ),
        (
            ("import os, signal", "os.kill(os.getpid(), signal.SIGSEGV)"),
            r"SIGSEGV \(the compiler crashed\); it said nothing",
        ),
        (("import os", "os._exit(3)"), "ended with exit code 3; it said nothing"),
        (("import os", "os._exit(0)"), "ended with exit code 0; it said nothing"),
    ],
    ids=["abort", "segmentation fault", "exit code", "no outcome"],
)
def test_a_crash_is_an_error_with_its_last_words(request_of, behave, tmp_path, lines, says):
    behave(*lines)
    with pytest.raises(CompileError, match=says):
        run_worker(request_of(), 60)
    assert list((tmp_path / "entry").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_what_takes_too_long_is_ended_with_its_children(request_of, behave, tmp_path):
    behave(
        "import subprocess, time",
        "child = subprocess.Popen(['sleep', '600'])",
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))",
        "time.sleep(600)",
    )
    with pytest.raises(CompileError, match=r"took longer than 3 s and was ended; .*compile_timeout_s"):
        run_worker(request_of(), 3)
    assert _gone(int((tmp_path / "pid").read_text()))
    assert list((tmp_path / "entry").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_parent_that_is_killed_takes_the_process_with_it(request_of, behave, tmp_path):
    behave(f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))")
    os.mkfifo(tmp_path / "none.onnx")  # nobody writes to it: opening the session takes for ever
    (tmp_path / "request").write_bytes(request_line(request_of()))
    # Its arguments do not name the worker's module, or it would be taken for the worker.
    program = (
        "from fieldtune.compilation import child; "
        "run_worker, read_request = child.run_worker, child.sys.modules[child.Request.__module__].read_request; "
        f"run_worker(read_request(open({str(tmp_path / 'request')!r}, 'rb').read()), 600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        process = int((tmp_path / "pid").read_text())
        assert not _gone(process, 3)
    finally:
        parent.kill()
        parent.communicate()
    assert _gone(process)


def test_secrets_are_in_neither_arguments_nor_environment(request_of, behave, tmp_path):
    behave(
        "import os",
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr((sys.orig_argv, dict(os.environ))))",
        "os._exit(3)",
    )
    request = request_of()
    choice = request.choice
    secret = ProviderChoice(
        provider=CPU,
        requested=CPU,
        options={"encryption_key": "s3cret"},
        session_settings=choice.session_settings,
        reason="",
    )
    with pytest.raises(CompileError) as caught:
        run_worker(Request(**{**{name: getattr(request, name) for name in Request.__slots__}, "choice": secret}), 60)
    assert "s3cret" not in (tmp_path / "seen").read_text()
    assert "s3cret" not in str(caught.value)
