"""One kind of argument parser for all commands: errors in one line, with the nearest names; help at 80 columns."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Iterable, Sequence
from typing import NoReturn

from mclnf_fast.errors import InputError


def help_width() -> int:
    """Return the columns of a help text: those of the terminal, between 60 and 100; 80 without one.

    >>> 60 <= help_width() <= 100
    True
    """
    return min(100, max(60, shutil.get_terminal_size((80, 24)).columns))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question for a mistyped name, or "" if none is near.

    >>> did_you_mean("tabel", ["run", "table"])
    '; did you mean table?'
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that reports an error as InputError, and suggests the names that are near a mistyped one.

    >>> parser = CommandParser("mclnf-fast info", "What is installed.")
    >>> parser.parse_args(["--jsn"])
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: info: unknown argument --jsn (see mclnf-fast info --help)
    """

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        # Abbreviations would change their meaning when an option is added.
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=_Help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]  # no caller brings a namespace
        options, unknown = self.parse_known_args(args)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            name = unknown[0].partition("=")[0]
            self.error(f"unknown argument {unknown[0]}{did_you_mean(name, flags)}")
        for action in self._actions:
            # argparse takes `--steps=--` for an option without a value, and hands on an empty list (until Python 3.12).
            if action.nargs is None and isinstance(getattr(options, action.dest, None), list):
                self.error(f"argument {'/'.join(action.option_strings)}: expected one argument")
        return options

    def error(self, message: str) -> NoReturn:
        # argparse would print its usage too and end the process itself.
        name = self.prog.partition(" ")[2]
        raise InputError(f"{name + ': ' if name else ''}{message} (see {self.prog} --help)")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=help_width())
