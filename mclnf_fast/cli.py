"""The command line: `mclnf-fast run`, `table`, `bench`, `tune`, `info`."""

from __future__ import annotations

import importlib
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mclnf_fast.errors import BackendError, InputError


@dataclass(frozen=True)
class System:
    """What `mclnf-fast run NAME` calls, imported when it is called.

    help: a line of `--help`. module, run: of `mclnf_fast.systems`, and in it `run(config, command)`. options, defaults:
    of `mclnf_fast.systems`, and in it `defaults(name, words)`, the configuration that a command line begins from.
    """

    help: str
    module: str
    run: str
    options: str
    defaults: str = "defaults_of"


SYSTEMS = {
    "city": System("learn a city block by block without forgetting", "city.job", "run_city", "city.options"),
    "image": System(
        "learn images patch by patch, by every method side by side", "signals.job", "run_signals", "signals.options"
    ),
    "video": System(
        "the same with videos, frame group by frame group", "signals.job", "run_signals", "signals.options"
    ),
    "audio": System("the same with sound, window by window", "signals.job", "run_signals", "signals.options"),
    "single-view": System(
        "learn a start for objects of a category, continue it on one view, and show the others",
        "single_view.job",
        "run_single_view",
        "single_view.options",
    ),
    "photos": System(
        "learn a start for photos of a place under many lights, continue it on one, and go from light to light",
        "photos.job",
        "run_photos",
        "photos.options",
    ),
    "image-start": System(
        "learn a start for images by MAML that fits an unseen one in two steps",
        "image_start.job",
        "run_image_start",
        "image_start.options",
    ),
    "ct": System(
        "learn a start for CT slices that reconstructs an unseen one from few projections",
        "ct.job",
        "run_ct",
        "ct.options",
    ),
}
COMMANDS = {
    "table": "tables and figures of finished runs: mclnf-fast table RUN [RUN ...] --out DIR",
    "bench": "measure every op against its peers and the machine's limit (mclnf-fast bench --help)",
    "tune": "time the tiles of the Triton kernels on this GPU and keep the fastest (mclnf-fast tune --help)",
    "info": "what is installed and built, and which backend each op takes",
}


def usage() -> str:
    """What `mclnf-fast --help` says."""
    rows = {**{f"run {name}": system.help for name, system in SYSTEMS.items()}, **COMMANDS}
    lines = [f"  {name:<16} {said}" for name, said in rows.items()]
    return "\n".join(
        ["usage: mclnf-fast COMMAND ...", "", *lines, "", "mclnf-fast run NAME --help lists its options.", ""]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit codes: 0 done; 2 unusable input, told in one line; 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        return _dispatch(given)
    except (InputError, BackendError) as error:
        print(f"mclnf-fast: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mclnf-fast: interrupted; --resume continues the run", file=sys.stderr)
        return 130


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if given else 2
    if given[0] == "--version":
        from mclnf_fast import __version__

        print(f"mclnf-fast {__version__}")
        return 0
    if given[0] == "info":
        if given[1:]:
            raise InputError(f"info takes no arguments, got {' '.join(given[1:])}")
        from mclnf_fast.info import info

        print(info())
        return 0
    if given[0] == "run":
        return _run(given[1:])
    if given[0] == "table":
        from mclnf_fast.report.table import main as table

        return table(given[1:])
    if given[0] == "bench":
        return _bench(given[1:])
    if given[0] == "tune":
        return _tune(given[1:])
    raise InputError(f"the command must be run, table, bench, tune or info, got {given[0]!r}; see mclnf-fast --help")


def _run(given: list[str]) -> int:
    name = given[0] if given else "nothing"
    if name not in SYSTEMS:
        raise InputError(f"run must be followed by the name of a system ({', '.join(SYSTEMS)}), got {name}")
    system, words = SYSTEMS[name], _resumed(given[1:])
    try:
        import tyro

        from mclnf_fast.systems.common.config_file import options_of
        from mclnf_fast.systems.common.renamed import refuse_renamed

        module = importlib.import_module(f"mclnf_fast.systems.{system.module}")
        options = importlib.import_module(f"mclnf_fast.systems.{system.options}")
    except ImportError as error:
        raise InputError(f"run {name} needs the package {error.name}: pip install 'mclnf-fast[report]'") from None
    default = getattr(options, system.defaults)(name, words)
    refuse_renamed(name, [option.flag for option in options_of(type(default))], words)
    config = tyro.cli(type(default), args=words, default=default, prog=f"mclnf-fast run {name}")
    getattr(module, system.run)(config, shlex.join(["mclnf-fast", "run", *given]))
    return 0


def _resumed(given: list[str]) -> list[str]:
    """`--resume` may stand alone: the run in `--out`, or the newest one."""
    for k, word in enumerate(given):
        if word == "--resume" and (k + 1 == len(given) or given[k + 1].startswith("--")):
            return [*given[: k + 1], "auto", *given[k + 1 :]]
    return given


def _tune(given: list[str]) -> int:
    try:
        from mclnf_fast.ops.bank_mlp.triton.tune import main as tune
    except ImportError as error:
        raise InputError(f"tune needs the package {error.name}: pip install triton") from None
    return tune(given)


def _bench(given: list[str]) -> int:
    """The benchmarks live in the source checkout: beside the package, or in the folder that the command is run in."""
    beside = pathlib.Path(__file__).resolve().parents[1]
    for root in (beside, pathlib.Path.cwd()):
        if (root / "benchmarks" / "command.py").is_file():
            sys.path.insert(0, str(root))
            from benchmarks.command import main as run_bench

            return run_bench(given)
    raise InputError(
        "bench needs the folder benchmarks/ of the source checkout, which an installed package does not have: "
        "run it in the folder of the checkout, or install from there with pip install -e '.[report]'"
    )


if __name__ == "__main__":
    sys.exit(main())
