"""The options of `mclnf-fast fit`."""

from __future__ import annotations

import argparse
import math
import pathlib
from typing import Any

from mclnf_fast.cli.parser import CommandParser
from mclnf_fast.errors import InputError

EXAMPLES = """\
mclnf-fast fit faces/ --out faces.safetensors --target-psnr 35
mclnf-fast fit faces/ --out faces.safetensors --resume --decode learned/
"""


def fit_parser() -> CommandParser:
    """Return the parser of the command.

    >>> fit_parser().parse_args(["faces", "--out", "bank", "--steps", "10"]).steps
    10
    """
    about = "Turns a folder of pictures, sounds or clips into one bank, a field for each."
    parser = CommandParser("mclnf-fast fit", about, EXAMPLES)

    def add(flag: str, kind: Any, help: str, default: Any = None, metavar: str = "N") -> None:
        shown = "" if default is None else f"; default: {default}"
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=help + shown)

    parser.add_argument("folder", metavar="DIR", help="folder of the files, read with everything below it; or one file")
    parser.add_argument("--out", required=True, metavar="FILE", help="file of the bank, in a format of safetensors")
    add("--steps", int, "steps of every field", 2000)
    add("--target-psnr", float, "a field stops at this PSNR in dB, looked at every 100 steps", metavar="DB")
    parser.add_argument("--decode", metavar="DIR", help="write what was learned back as files")
    parser.add_argument("--resume", action="store_true", help="continue a fit that was stopped, with the same options")
    add("--start", str, "file of a bank, folder of a run, or an initialization of the package (faces)", metavar="START")
    parser.add_argument("--kind", choices=("image", "audio", "video"), help="default: what the folder has most of")
    add("--limit", int, "at most so many files")
    add("--width", int, "width of a field; default: that of --start, or 64")
    add("--hidden-layers", int, "hidden layers; default: those of --start, or 3")
    add("--w0", float, "frequency of the sine; default: that of --start, or 30", metavar="W0")
    add("--size", int, "side of the center crop of pictures and clips; default: whole pictures, clips of 64")
    parser.add_argument("--resize", action="store_true", help="scale pictures to the crop's side first")
    add("--max-side", int, "scale pictures down to at most so many pixels a side")
    add("--channels", int, "1: gray, 3: RGB", 3)
    add("--seconds", float, "length of a sound, from its beginning", 1.0, "S")
    add("--rate", int, "samples per second of sound", 16000)
    parser.add_argument("--peak", action="store_true", help="scale each sound to full range")
    add("--frames", int, "frames of a clip", 16)
    add("--stride", int, "take every stride-th frame", 1)
    add("--batch", int, "samples per step and field; all of them if it has no more", 256)
    add("--lr", float, "rate of Adam, which falls along a cosine; default: by the field, 2e-3 at width 64", None, "LR")
    add("--seed", int, "seed of all random numbers", 0)
    add(
        "--threads",
        int,
        "CPU threads; default: one per CPU that this process may use (affinity, cgroup)",
    )
    parser.add_argument("--strict", action="store_true", help="refuse a folder with an unusable file")
    return parser


def fit(options: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises InputError."""
    from mclnf_fast.data import FileReadOptions
    from mclnf_fast.learn.fit import FitOptions
    from mclnf_fast.packing import LIMITS
    from mclnf_fast.systems.common.checks import check_at_least, check_positive
    from mclnf_fast.systems.common.options import MOST
    from mclnf_fast.systems.fit.job import FitJob, run_fit

    check_at_least(1, steps=options.steps, threads=options.threads, width=options.width, batch=options.batch)
    check_at_least(0, seed=options.seed)
    check_positive(w0=options.w0, lr=options.lr)
    if options.hidden_layers is not None and not 0 <= options.hidden_layers <= LIMITS["hidden_layers"]:
        raise InputError(f"hidden-layers must lie in 0 ... {LIMITS['hidden_layers']}, got {options.hidden_layers}")
    if options.target_psnr is not None and not math.isfinite(options.target_psnr):
        raise InputError(f"target-psnr must be finite, got {options.target_psnr}")
    most = {**dict.fromkeys(("steps", "seed", "limit", "frames", "stride"), (1 << 31) - 1), **MOST, "max_side": 1 << 15}
    for name, limit in most.items():
        value = getattr(options, name, None)
        if value is not None and value > limit:
            raise InputError(f"{name.replace('_', '-')} must be at most {limit}, got {value}")
    names = ("kind", "limit", "size", "resize", "max_side", "channels", "seconds", "rate", "peak", "frames", "stride")
    reading = FileReadOptions(**{name: getattr(options, name) for name in names})
    try:
        learning = FitOptions(
            batch=options.batch, lr=options.lr, seed=options.seed, file=options.out, resume=options.resume
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    run_fit(
        FitJob(
            pathlib.Path(options.folder),
            pathlib.Path(options.out),
            reading,
            learning,
            options.steps,
            options.target_psnr,
            options.start,
            options.width,
            options.hidden_layers,
            options.w0,
            options.strict,
            None if options.decode is None else pathlib.Path(options.decode),
            options.threads,
        )
    )
