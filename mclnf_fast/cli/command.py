"""Commands and what each of them runs.

The systems of `run` are listed in `mclnf_fast.systems.registry`; a plugin adds one by an entry point.
"""

from __future__ import annotations

import argparse
import functools
import logging
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence

from mclnf_fast.cli.guard import guarded
from mclnf_fast.cli.parser import CommandParser, did_you_mean, help_width
from mclnf_fast.errors import InputError, pip_install
from mclnf_fast.systems.registry import find_system, system_lines

EXAMPLES = """\
mclnf-fast run city --quick         a first run, in under a minute
mclnf-fast run NAME --help          the options of a system
mclnf-fast run NAME --config FILE   with the options in the config.yaml of a run
source <(mclnf-fast --print-completion bash)   completes commands and options
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done; 2 unusable input, reported in one line; 130 interrupted.

    Args:
        arguments: of the command line; None: those of this process.

    >>> main(["--version"])
    mclnf-fast 0.1.0
    0
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    return guarded(_dispatch, sys.argv[1:] if arguments is None else arguments)


def usage() -> str:
    """Return the text of `mclnf-fast --help`.

    >>> usage().splitlines()[0]
    'usage: mclnf-fast COMMAND ...'
    """
    commands = [(name, text) for name, (text, _) in COMMANDS.items()]
    parts = ["usage: mclnf-fast COMMAND ...", _listed(commands), run_usage().partition("\n\n")[2], EXAMPLES]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def run_usage() -> str:
    """Return the text of `mclnf-fast run --help`: the systems.

    >>> run_usage().splitlines()[0]
    'usage: mclnf-fast run NAME [--quick] [--data DIR] [--out DIR] ...'
    """
    parts = ["usage: mclnf-fast run NAME [--quick] [--data DIR] [--out DIR] ...", "systems:", _listed(system_lines())]
    return f"{parts[0]}\n\n{parts[1]}\n{parts[2]}\n\nmclnf-fast run NAME --help lists the options of a system.\n"


def _listed(rows: Iterable[tuple[str, str]]) -> str:
    wrap = functools.partial(textwrap.fill, width=help_width() - 1, subsequent_indent=" " * 15)
    return "\n".join(wrap(f"  {name:<12} {text}") for name, text in rows)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from mclnf_fast import __version__

        print(f"mclnf-fast {__version__}")
        return 0
    if words[0] == "--print-completion":
        return _print_completion(words[1:])
    if words[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        near = did_you_mean(words[0], COMMANDS)
        raise InputError(f"the command must be one of {names}, got {words[0]!r:.80}{near} (see mclnf-fast --help)")
    return COMMANDS[words[0]][1](words[1:])


def _print_completion(words: list[str]) -> int:
    from mclnf_fast.cli.completion import SHELLS, completion

    if len(words) != 1 or words[0] not in SHELLS:
        raise InputError(f"--print-completion must name one of {', '.join(SHELLS)}, got {' '.join(words) or 'none'}")
    print(completion(words[0], COMMANDS), end="")
    return 0


# Each command imports its own room, so that `info` and `bench` run without the packages of the reports.
def _run(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(run_usage(), end="")
        return 0
    system = find_system(words[0] if words else "")
    try:
        run, defaults = system.functions()
        from mclnf_fast.cli.options import read_options

        config = read_options(words[0], defaults, words[1:])
    except ImportError as error:
        raise InputError(f"run {words[0]} needs the package {error.name}: {pip_install('report')}") from None
    if config is not None:
        try:
            run(config, shlex.join(["mclnf-fast", "run", *words]))
        except InputError:
            from mclnf_fast.systems.common.run import discard_unused

            discard_unused()
            raise
    return 0


def _parsed(parser: CommandParser, words: list[str]) -> argparse.Namespace | None:
    """Return the options; None if the help was asked for, and printed."""
    try:
        return parser.parse_args(words)
    except SystemExit:  # argparse ends the process after its help
        return None


def _fit(words: list[str]) -> int:
    from mclnf_fast.cli.fit import fit, fit_parser

    options = _parsed(fit_parser(), words)
    if options is not None:
        fit(options)
    return 0


def _table(words: list[str]) -> int:
    from mclnf_fast.report import table

    parser = CommandParser("mclnf-fast table", f"Writes {table.WRITES}.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for table.md, .csv, .html and the figures")
    parser.add_argument("--check", action="store_true", help="also the relations that the method's authors expect")
    options = _parsed(parser, words)
    if options is not None:
        command = shlex.join(["mclnf-fast", "table", *words])
        for path in table.write_tables(options.runs, options.out, command, check=options.check):
            print(path)
    return 0


def _data(words: list[str]) -> int:
    from mclnf_fast.data import public_sets

    known = public_sets.sources()
    lines = [(source.name, f"{source.what} ({source.license})") for source in known.values()]
    parser = CommandParser(
        "mclnf-fast data", "Fetches the public data that results are of, each file checked.", f"data:\n{_listed(lines)}"
    )
    parser.add_argument("name", choices=list(known), metavar="NAME", help="one of those below")
    parser.add_argument("--out", metavar="DIR", help="folder for the files; default: data/NAME")
    options = _parsed(parser, words)
    if options is not None:
        folder = public_sets.download(options.name, options.out or pathlib.Path("data") / options.name)
        source = known[options.name]
        print(f"{len(source.files)} files in {folder}, every one as published (license: {source.license})")
        print(f"learn from them: mclnf-fast run {source.system} --data {shlex.quote(str(folder))}")
    return 0


def _bench(words: list[str]) -> int:
    # The benchmarks live in the source checkout: beside the package, or in the current folder.
    beside = pathlib.Path(__file__).resolve().parents[2]
    for root in (beside, pathlib.Path.cwd()):
        if (root / "benchmarks" / "command.py").is_file():
            sys.path.insert(0, str(root))
            from benchmarks import command

            return command.main(words)
    raise InputError("bench needs the folder benchmarks/ of the source checkout: run it in the folder of the checkout")


def _tune(words: list[str]) -> int:
    try:
        from mclnf_fast.ops.bank_mlp.triton import tune
    except ImportError as error:
        raise InputError(f"tune needs the package {error.name}: pip install triton") from None
    parser = CommandParser("mclnf-fast tune", tune.__doc__ or "")
    tune.add_options(parser)
    options = _parsed(parser, words)
    return 0 if options is None else tune.main(options)


def _info(words: list[str]) -> int:
    parser = CommandParser("mclnf-fast info", "Prints versions, built libraries, and which backend each op takes.")
    if _parsed(parser, words) is not None:
        from mclnf_fast.info import info

        print(info())
    return 0


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "run": ("learn: mclnf-fast run NAME, with one of the systems below", _run),
    "fit": ("a folder of pictures, sounds or clips into one bank: mclnf-fast fit DIR --out FILE", _fit),
    "table": ("tables and figures of finished runs: mclnf-fast table RUN [RUN ...] --out DIR", _table),
    "data": ("fetch public data by name: mclnf-fast data NAME", _data),
    "bench": ("measure every op against its peers and the machine's limit", _bench),
    "tune": ("time the tiles of the Triton kernels on this GPU and keep the fastest", _tune),
    "info": ("what is installed and built, and which backend each op takes", _info),
}
"""Name -> its line in the help, and what it runs."""
