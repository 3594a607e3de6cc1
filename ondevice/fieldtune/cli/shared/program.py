"""A command line of subcommands: each is a module with a dataclass of flags and a function ``run`` that takes it.

Exit codes: 0; 1 for an error that one line on stderr explains; 2 for wrong usage; 130 for an interrupted run.
Only the module of the subcommand at hand is imported, and it imports what is heavy when it runs.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import operator
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fieldtune.cli.shared.usage import UsageError
from fieldtune.errors import FieldtuneError
from fieldtune.version import __version__

_INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One program.

    Attributes:
        name: what it is called by.
        package: where its subcommands' modules are.
        commands: subcommand, which is also its module's name, with - for _ → its dataclass.
        description: for ``--help``.
    """

    name: str
    package: str
    commands: Mapping[str, str]
    description: str

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one subcommand and return its exit code.

        Args:
            argv: the arguments; the process's own if None.

        Raises:
            SystemExit: after help (0) and after wrong usage (2).
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        if arguments[:1] == ["--version"]:
            sys.stdout.write(f"{self.name} {__version__}\n")
            return 0
        command = self._parse(arguments)
        name = next(name for name, kind in self.commands.items() if kind == type(command).__name__)
        return self._run(self._module(name), command)

    def _parse(self, arguments: list[str]) -> Any:
        import tyro

        config = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        if arguments and arguments[0] in self.commands:
            name = arguments[0]
            kind = self._kind(name)
            # The whole docstring: by itself tyro leaves out the examples.
            text = inspect.getdoc(kind)
            return tyro.cli(kind, prog=f"{self.name} {name}", args=arguments[1:], config=config, description=text)
        union = functools.reduce(operator.or_, [self._summary(name) for name in self.commands])
        return tyro.cli(union, prog=self.name, args=arguments, config=config, description=self.description)

    def _run(self, module: ModuleType, command: Any) -> int:
        from rich.console import Console

        from fieldtune.cli.shared.signals import terminating_as_interrupt
        from fieldtune.hardware import check_installed

        try:
            check_installed()  # in every command: who installs two runtimes should hear of it at once
            with warnings.catch_warnings(), terminating_as_interrupt():
                warnings.showwarning = self._show_warning
                code: int = module.run(command, Console(stderr=True))
                sys.stdout.flush()
                return code
        except UsageError as error:
            return self._fail(str(error), 2)
        except FieldtuneError as error:
            return self._fail(str(error), 1)
        except KeyboardInterrupt:
            sys.stderr.write(f"{self.name}: interrupted\n")
            return _INTERRUPTED
        except BrokenPipeError:
            # Whoever reads our output has seen enough: nothing is to be said, not by closing stdout either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(self._module_name(name))

    def _summary(self, name: str) -> Any:
        """Return an empty dataclass with the docs of a subcommand's: the list of all imports none of them."""
        spec = importlib.util.find_spec(self._module_name(name))
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        kind = self.commands[name]
        (node,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind)
        made = dataclasses.make_dataclass(kind, [])
        made.__doc__ = ast.get_docstring(node)
        return made

    def _module_name(self, name: str) -> str:
        return f"{self.package}.{name.replace('-', '_')}"

    def _kind(self, name: str) -> Any:
        return getattr(self._module(name), self.commands[name])

    def _fail(self, message: str, code: int) -> int:
        sys.stderr.write(f"{self.name}: error: {message}\n")
        return code

    def _show_warning(self, message: Warning | str, *_: Any, **__: Any) -> None:
        sys.stderr.write(f"{self.name}: warning: {message}\n")
