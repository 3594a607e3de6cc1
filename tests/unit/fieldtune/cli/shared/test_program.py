"""A program of subcommands: which module runs, how it ends, and what is never imported."""

import sys

import pytest

from fieldtune.cli.shared.program import Program
from fieldtune.version import __version__

GREET = '''
import dataclasses
import sys
import warnings

from fieldtune.cli.shared.usage import UsageError
from fieldtune.errors import FieldtuneError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greet:
    """Greet somebody.

    Examples:
      host greet --name Ann
    """

    name: str
    """Who."""


def run(command, console):
    if command.name == "nobody":
        raise UsageError("nobody cannot be greeted")
    if command.name == "lost":
        raise FieldtuneError("lost: not found")
    if command.name == "late":
        raise KeyboardInterrupt
    if command.name == "loud":
        warnings.warn("that was loud", stacklevel=1)
    console.print("on stderr")
    sys.stdout.write(f"hello {command.name}\\n")
    return 3
'''
LEAVE = '''
import dataclasses

raise ImportError("too heavy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveNow:
    """Leave.

    At once.
    """
'''


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A program of two commands, one of which cannot be imported."""
    folder = tmp_path / "hosting"
    folder.mkdir()
    for name, text in (("__init__", ""), ("greet", GREET), ("leave_now", LEAVE)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield Program(
        name="host",
        package="hosting",
        commands={"greet": "Greet", "leave-now": "LeaveNow"},
        description="Look after guests.",
    )
    for name in ("hosting", "hosting.greet", "hosting.leave_now"):
        sys.modules.pop(name, None)


def test_a_command_gives_the_code_and_writes_where_it_says(host, capsys):
    assert host.main(["greet", "--name", "Ann"]) == 3
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("hello Ann\n", "on stderr\n")


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("nobody", 2, "host: error: nobody cannot be greeted\n"),
        ("lost", 1, "host: error: lost: not found\n"),
        ("late", 130, "host: interrupted\n"),
    ],
)
def test_how_a_command_ends(host, capsys, name, code, line):
    assert host.main(["greet", "--name", name]) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", line)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_of_the_program(host, capsys):
    assert host.main(["greet", "--name", "loud"]) == 3
    assert capsys.readouterr().err == "host: warning: that was loud\non stderr\n"


def test_the_list_of_commands_imports_none_of_them(host, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        host.main(["--help"])
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("Look after guests.", "greet", "Greet somebody.", "leave-now", "Leave."))
    assert not {"hosting.greet", "hosting.leave_now"} & set(sys.modules)


def test_the_help_of_a_command_has_its_examples(host, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        host.main(["greet", "--help"])
    shown = capsys.readouterr().out
    assert "host greet --name Ann" in shown
    assert "Who." in shown


@pytest.mark.parametrize("arguments", [[], ["wave"], ["greet"], ["greet", "--nane", "Ann"]])
def test_wrong_usage_ends_with_code_2(host, capsys, arguments):
    with pytest.raises(SystemExit, match=r"^2$"):
        host.main(arguments)
    assert capsys.readouterr().out == ""


def test_the_version_is_that_of_the_package(host, capsys):
    assert host.main(["--version"]) == 0
    assert capsys.readouterr().out == f"host {__version__}\n"
