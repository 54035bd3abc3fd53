"""The command line: `mclnf-fast run`, `table`, `bench`, `tune`, `info`.

The systems of `run` are listed in `mclnf_fast.systems.registry`; a plugin adds one by an entry point.
"""

from __future__ import annotations

import functools
import logging
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Sequence

from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.systems.registry import find_system, system_lines

COMMANDS = {
    "table": "tables and figures of finished runs: mclnf-fast table RUN [RUN ...] --out DIR",
    "bench": "measure every op against its peers and the machine's limit (mclnf-fast bench --help)",
    "tune": "time the tiles of the Triton kernels on this GPU and keep the fastest (mclnf-fast tune --help)",
    "info": "what is installed and built, and which backend each op takes",
}


def usage() -> str:
    """Return the text of `mclnf-fast --help`.

    >>> usage().splitlines()[0]
    'usage: mclnf-fast COMMAND ...'
    """
    rows = {**{f"run {name}": text for name, text in system_lines()}, **COMMANDS}
    # A terminal of 80 columns would break the lines anywhere.
    wrap = functools.partial(textwrap.fill, width=79, subsequent_indent=" " * 19)
    lines = [wrap(f"  {name:<16} {text}") for name, text in rows.items()]
    return "\n".join(
        ["usage: mclnf-fast COMMAND ...", "", *lines, "", "mclnf-fast run NAME --help lists its options.", ""]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done; 2 unusable input, reported in one line; 130 interrupted.

    Args:
        arguments: of the command line; None: those of this process.

    >>> main(["--version"])
    mclnf-fast 0.1.0
    0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        return _dispatch(words)
    except (InputError, BackendError) as error:
        # One line and no traceback: the user has to change the input, not to read our code.
        print(f"mclnf-fast: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mclnf-fast: interrupted; --resume continues the run", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command == "--version":
        from mclnf_fast import __version__

        print(f"mclnf-fast {__version__}")
        return 0
    if command == "info":
        if rest:
            raise InputError(f"info takes no arguments, got {' '.join(rest)}")
        from mclnf_fast.info import info

        print(info())
        return 0
    # Each command imports its own room, so that `info` and `bench` run without the packages of the reports.
    if command == "run":
        return _run(rest)
    if command == "table":
        from mclnf_fast.report import table

        return table.main(rest)
    if command == "bench":
        return _bench(rest)
    if command == "tune":
        return _tune(rest)
    raise InputError(f"the command must be run, table, bench, tune or info, got {command!r}; see mclnf-fast --help")


def _run(words: list[str]) -> int:
    name, options = words[0] if words else "", _with_resume(words[1:])
    system = find_system(name)
    try:
        import tyro

        from mclnf_fast.systems.common.config_file import options_of
        from mclnf_fast.systems.common.renamed import refuse_renamed, refuse_unknown, with_new_names

        run, defaults = system.functions()
    except ImportError as error:
        raise InputError(f"run {name} needs the package {error.name}: pip install 'mclnf-fast[report]'") from None
    default = defaults(name, options)
    flags = [option.flag for option in options_of(type(default))]
    options = with_new_names(name, flags, options)
    refuse_renamed(name, flags, options)
    refuse_unknown(name, flags, options)
    config = tyro.cli(type(default), args=options, default=default, prog=f"mclnf-fast run {name}")
    run(config, shlex.join(["mclnf-fast", "run", *words]))
    return 0


def _with_resume(words: list[str]) -> list[str]:
    """Return the words with a value for a `--resume` that stands alone: the run in `--out`, or the newest one."""
    for k, word in enumerate(words):
        if word == "--resume" and (k + 1 == len(words) or words[k + 1].startswith("--")):
            return [*words[: k + 1], "auto", *words[k + 1 :]]
    return words


def _tune(words: list[str]) -> int:
    try:
        from mclnf_fast.ops.bank_mlp.triton import tune
    except ImportError as error:
        raise InputError(f"tune needs the package {error.name}: pip install triton") from None
    return tune.main(words)


def _bench(words: list[str]) -> int:
    """Run the benchmarks, which live in the source checkout: beside the package, or in the current folder."""
    beside = pathlib.Path(__file__).resolve().parents[1]
    for root in (beside, pathlib.Path.cwd()):
        if (root / "benchmarks" / "command.py").is_file():
            sys.path.insert(0, str(root))
            from benchmarks import command

            return command.main(words)
    raise InputError(
        "bench needs the folder benchmarks/ of the source checkout, which an installed package does not have: "
        "run it in the folder of the checkout, or install from there with pip install -e '.[report]'"
    )


if __name__ == "__main__":
    sys.exit(main())
