"""Which uses of Fisher information help, on which modality, and by how much: `python -m benchmarks.fisher_sweep`.

For one modality it meta-trains a short start a seed and runs plain modules (`mod`) and `mim` with one switch at a time
turned, on the same tasks and signals, side by side as a bank. Writes JSON, a table in Markdown and a picture:

    python -m benchmarks.fisher_sweep --modality image --data FOLDER --out benchmarks/results/fisher_image
    python -m benchmarks.fisher_sweep --merge image.json audio.json --out benchmarks/results/fisher_sweep
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
from typing import Any

import torch

from benchmarks import fisher_report
from benchmarks.fisher_measure import Sweep, measure
from benchmarks.fisher_variants import FACTORS, rows
from mclnf_fast.errors import InputError, pip_install
from mclnf_fast.info import info
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.signals.data import load
from mclnf_fast.systems.signals.options import CONFIGS, SignalConfig

RESULTS = pathlib.Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    found = argparse.ArgumentParser(
        "python -m benchmarks.fisher_sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = found.add_mutually_exclusive_group(required=True)
    what.add_argument("--modality", choices=list(CONFIGS), help="what to learn")
    what.add_argument("--merge", nargs="+", type=pathlib.Path, metavar="JSON", help="results to show side by side")
    found.add_argument("--data", type=pathlib.Path, help="folder of signals; without it procedural ones")
    found.add_argument("--factors", nargs="+", default=list(FACTORS), metavar="FACTOR", help=", ".join(FACTORS))
    found.add_argument("--signals", type=int, default=4, help="signals to test on (default %(default)s)")
    found.add_argument("--limit", type=int, default=32, help="signals to read in all (default %(default)s)")
    found.add_argument("--steps", type=int, default=1024, help="steps a task (default %(default)s)")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(default 0 1)")
    found.add_argument("--batch", type=int, default=256, help="samples a signal and step (default %(default)s)")
    found.add_argument("--width", type=int, default=64, help="of a module (default %(default)s)")
    found.add_argument("--meta-steps", type=int, default=100, help="outer steps of a start (default %(default)s)")
    found.add_argument("--size", type=int, help="side of the images (default 96), or of the frames (48), in pixels")
    found.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    found.add_argument("--out", type=pathlib.Path, help="files to write, without suffix (default: in results/)")
    return found


def configured(args: argparse.Namespace) -> SignalConfig:
    """Return the configuration of a sweep. Raises InputError if an option is out of range."""
    for name in ("signals", "limit", "steps", "batch", "width", "meta_steps", "threads"):
        value = getattr(args, name)
        least = 0 if name == "meta_steps" else 1
        if value is not None and value < least:
            raise InputError(f"{name.replace('_', '-')} must be at least {least}, got {value}")
    unknown = [f for f in args.factors if f not in FACTORS]
    if unknown:
        raise InputError(f"factors must be some of {', '.join(FACTORS)}, got {unknown[0]!r}")
    keys: dict[str, Any] = {}
    if args.modality != "audio":
        keys["size"] = args.size or {"image": 96, "video": 48}[args.modality]
    elif args.size is not None:
        raise InputError(f"size must be left out with audio, got {args.size}")
    usual = CONFIGS[args.modality]()
    values = {
        "data": args.data,
        "test": args.signals,
        "limit": args.limit,
        "steps": args.steps,
        "seeds": tuple(args.seeds),
        "width": args.width,
        "adapt.batch": args.batch,
        "meta.steps": args.meta_steps,
        "meta.tasks": 4,
        "meta.batch": args.batch,
        "meta.validate-every": 0,
    }
    config = with_options(usual, values | keys)
    config.check()
    return config


def swept(args: argparse.Namespace) -> dict[str, Any]:
    """Run the sweep. Raises InputError; RuntimeError if a variant is not what it says."""
    config = configured(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    sets = load(config)
    sweep = Sweep(config, sets)
    chosen = [row for row in rows() if row.factor in args.factors]
    found = measure(sweep, chosen, config.seeds, lambda text: print(text, flush=True))
    about = info()
    tasks = f"{sweep.cut.tasks} tasks of {sweep.cut.coordinates(0, 'local').shape[0]:,} samples"
    return {
        "modality": args.modality,
        "title": sets.title,
        "about": f"{len(sets.test)} signals of {tasks}, {len(config.seeds)} seeds, {config.steps} steps a task of "
        f"{args.batch} samples, width {config.field.width}, starts of {args.meta_steps} outer steps "
        f"on {len(sets.train)} other signals.",
        "command": _command(args),
        "machine": about["machine"],
        "torch": about["versions"]["torch"],
        "notes": list(sets.notes),
        "signals": list(sets.test.names),
        "seeds": list(config.seeds),
        "steps": config.steps,
        "variants": {f"{row.factor}: {row.label}": dataclasses.asdict(row.variant) for row in chosen},
        "rows": found,
    }


def _command(args: argparse.Namespace) -> str:
    """What was asked for, without a folder of this machine."""
    words = ["python -m benchmarks.fisher_sweep", "--modality", args.modality]
    if args.data is not None:
        words += ["--data", args.data.name]
    for name in ("signals", "limit", "steps", "seeds", "batch", "width", "meta_steps", "size", "factors", "threads"):
        value = getattr(args, name)
        if value is not None and value != parser().get_default(name):
            listed = value if isinstance(value, list) else [value]
            words += ["--" + name.replace("_", "-"), *map(str, listed)]
    return words[0] + " " + shlex.join(words[1:])


def merged(paths: list[pathlib.Path]) -> list[dict[str, Any]]:
    """Return the sweeps of several files. Raises InputError if one is none, or a modality comes twice."""
    sweeps: list[dict[str, Any]] = []
    for path in paths:
        try:
            found = json.loads(path.read_text())["sweeps"]
            named = [(sweep["modality"], sweep["title"], sweep["rows"][0]["psnr"]) for sweep in found]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"merge: {path} must be a result of this command, but: {error!r}") from None
        for modality, title, _ in named:
            if any((s["modality"], s["title"]) == (modality, title) for s in sweeps):
                raise InputError(f"merge: each sweep must come once, got {modality} of {title} twice ({path})")
        sweeps += found
    return sweeps


def write(sweeps: list[dict[str, Any]], stem: pathlib.Path) -> list[pathlib.Path]:
    """JSON, table and picture; without matplotlib no picture."""
    stem = stem.with_suffix("") if stem.suffix in (".json", ".md", ".png") else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.parent / (stem.name + suffix) for suffix in (".json", ".md", ".png")]
    paths[0].write_text(json.dumps({"sweeps": sweeps}, indent=1, ensure_ascii=False) + "\n")
    paths[1].write_text(fisher_report.markdown(sweeps))
    try:
        fisher_report.draw(sweeps, paths[2])
    except ImportError:
        print(f"no picture: it needs matplotlib, {pip_install('report')}", file=sys.stderr)
        paths.pop()
    return paths


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit codes: 0 done; 1 the check failed; 2 unusable input, reported in one line."""
    args = parser().parse_args(argv)
    try:
        sweeps = merged(args.merge) if args.merge else [swept(args)]
    except InputError as error:
        print(f"fisher_sweep: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"fisher_sweep: no figures, the check failed: {error}", file=sys.stderr)
        return 1
    default = RESULTS / ("fisher_sweep" if args.merge else f"fisher_{args.modality}")
    paths = write(sweeps, args.out or default)
    print(paths[1].read_text())
    print("written: " + ", ".join(path.name for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
