"""The command line: `mclnf-fast run`, `table`, `bench`, `tune`, `info`."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence

from mclnf_fast.errors import BackendError, InputError

USAGE = """usage: mclnf-fast COMMAND ...

  run city   learn a city block by block without forgetting (mclnf-fast run city --help)
  run image  learn images patch by patch, by every method side by side (mclnf-fast run image --help)
  run video  the same with videos, frame group by frame group
  run audio  the same with sound, window by window
  run single-view
             learn a start for objects of a category, continue it on one view, and show the others
  table      tables and figures of finished runs: mclnf-fast table RUN [RUN ...] --out DIR
  bench      measure every op against its peers and the machine's limit (mclnf-fast bench --help)
  tune       time the tiles of the Triton kernels on this GPU and keep the fastest (mclnf-fast tune --help)
  info       what is installed and built, and which backend each op takes
"""


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
        print(USAGE, end="")
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
        if given[1:2] == ["city"]:
            return _run_city(given[2:])
        if given[1:2] and given[1] in ("image", "video", "audio"):
            return _run_signals(given[1], given[2:])
        if given[1:2] == ["single-view"]:
            return _run_single_view(given[2:])
        what = given[1] if len(given) > 1 else "nothing"
        systems = "city, image, video, audio, single-view"
        raise InputError(f"run must be followed by the name of a system ({systems}), got {what}")
    if given[0] == "table":
        from mclnf_fast.report.table import main as table

        return table(given[1:])
    if given[0] == "bench":
        return _bench(given[1:])
    if given[0] == "tune":
        return _tune(given[1:])
    raise InputError(f"the command must be run, table, bench, tune or info, got {given[0]!r}; see mclnf-fast --help")


def _run_city(given: list[str]) -> int:
    try:
        import tyro

        from mclnf_fast.systems.city import CityConfig, quick_config, run_city
    except ImportError as error:
        raise InputError(f"run city needs the package {error.name}: pip install 'mclnf-fast[report]'") from None
    default = quick_config() if "--quick" in given else CityConfig()
    config = tyro.cli(CityConfig, args=_resumed(given), default=default, prog="mclnf-fast run city")
    run_city(dataclasses.replace(config), " ".join(["mclnf-fast run city", *given]))
    return 0


def _run_signals(kind: str, given: list[str]) -> int:
    try:
        import tyro

        from mclnf_fast.systems.mcl_config import CONFIGS, quick_config
        from mclnf_fast.systems.mcl_nf import run_signals
    except ImportError as error:
        raise InputError(f"run {kind} needs the package {error.name}: pip install 'mclnf-fast[report]'") from None
    default = quick_config(kind) if "--quick" in given else CONFIGS[kind]()
    config = tyro.cli(CONFIGS[kind], args=_resumed(given), default=default, prog=f"mclnf-fast run {kind}")
    run_signals(config, shlex.join(["mclnf-fast", "run", kind, *given]))
    return 0


def _run_single_view(given: list[str]) -> int:
    try:
        import tyro

        from mclnf_fast.systems.single_view import run_single_view
        from mclnf_fast.systems.single_view_config import SingleViewConfig, defaults_of
    except ImportError as error:
        raise InputError(f"run single-view needs the package {error.name}: pip install 'mclnf-fast[report]'") from None
    words = _resumed(given)
    config = tyro.cli(SingleViewConfig, args=words, default=defaults_of(words), prog="mclnf-fast run single-view")
    run_single_view(config, shlex.join(["mclnf-fast", "run", "single-view", *given]))
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
