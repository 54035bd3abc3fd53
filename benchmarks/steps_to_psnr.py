"""Steps that modules need to 25, 30, 35 and 40 dB, from a random and from meta-learned initializations: `python -m
benchmarks.steps_to_psnr image DIR` or `audio DIR`.

Modules of width 32 (`--width`), a quarter of each signal to a module, all of them side by side. The random
initialization and the one that Reptile learned through sixteen steps of Adam have, for each level, the best of the same
frequencies of the sines and rates of Adam, and the latter a row with the defaults beside it. The default, MAML through
four SGD steps, which the modules then make first (before Adam, whose rate rises over `ramp` steps), has its defaults
alone. Prints a row per initialization, and writes `benchmarks/results/steps_to_psnr_NAME.json` (about four minutes on
one core, at width 32).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mclnf_fast import data
from mclnf_fast.data.cut import Cut
from mclnf_fast.data.signals import Signals
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import DrawnEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.methods import AdaptConfig, Mod, ModRandom
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import mse_to_psnr
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

RESULTS = pathlib.Path(__file__).parent / "results"
LEVELS = (25, 30, 35, 40)
FREQUENCIES = (30.0, 42.0)  # of the sines; the default is the first. Lower and higher ones were slower for all.
RATES = (5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3)
DEFAULT = f"{FREQUENCIES[0]:g}, {RATES[2]:g}"
LAST = 1024
LOOKS = sorted({1, 2, 4, 8, 12, *range(16, 128, 4), *range(128, 512, 8), *range(512, LAST + 1, 32)})
MAML = MetaConfig(steps=300, tasks=32)
REPTILE = MetaConfig(
    steps=150, tasks=32, inner_steps=16, inner_lr=2e-3, algorithm="reptile", inner="adam", grad_clip=None
)


class Kind(NamedTuple):
    """How signals of a kind are read, cut and learned: MAML's rates, and how Adam's rate falls."""

    sets: Any
    cut: Cut
    maml: MetaConfig
    fall: float
    offset: float


def kind(name: str, folder: str) -> Kind:
    """Return the signals of a folder with the defaults of `run image` or `run audio`, smaller."""
    if name == "image":
        sets = data.load_images(folder, size=96, resize=True, channels=3)
        return Kind(sets, Cut((96, 96), (2, 2), (1.0, 1.0)), MAML, 0.5, 0.0)
    sets = data.load_audio(folder, seconds=1.0, rate=16000, peak=True, limit=40)
    speech = MetaConfig(steps=300, tasks=32, inner_lr=1e-2, outer_lr=5e-4)
    return Kind(sets, Cut((16000,), (4,), (50.0,), (12.5,)), speech, 0.75, 0.5)


def side_by_side(cut: Cut, signals: Signals, spec: FieldSpec) -> CoordTask:
    """Return all tasks of all signals as one task, a module each: those of the first cut first."""
    values = [cut.values(signals.values, k) for k in range(cut.tasks)]
    return CoordTask("all", cut.coordinates(0, "local"), torch.cat(values), spec)


def learned(task: CoordTask, init: Params, config: MetaConfig) -> Params:
    """Return a meta-learned initialization [1, ...]."""

    def draw(modules: Tensor, generator: torch.Generator) -> LossFn:
        return lambda params, step: task.loss(params, task.draw(256, generator, modules))

    trainer = MetaTrainer(init, DrawnEpisodes(task.modules, draw, config.tasks), config, 0)
    while not trainer.done:
        trainer.step()
    return trainer.params


def steps_to(
    cls: type[Mod], task: CoordTask, init: Params, config: AdaptConfig, parts: int
) -> tuple[dict[str, int | None], dict[str, float]]:
    """Return the first looked-at step with a mean PSNR of each level (None: not within LAST), and the curve."""
    method, curve = cls([task], init, config, 0), {}
    method.begin(0)
    for look in LOOKS:
        while method.made < look:
            method.steps(0, look - method.made)
        errors = task.squared_errors(task.predict(method.params_of(0))).reshape(parts, -1).sum(0)
        curve[look] = float(mse_to_psnr(errors / (parts * task.items * task.y.shape[-1])).mean())
        if curve[look] >= LEVELS[-1]:
            break
    reached = {str(level): next((s for s, v in curve.items() if v >= level), None) for level in LEVELS}
    return reached, {str(s): round(v, 2) for s, v in curve.items() if s & (s - 1) == 0}


def least(rows: Iterable[dict[str, int | None]]) -> dict[str, int | None]:
    """Return the fewest steps to each level over several choices."""
    found = list(rows)
    return {str(k): min((s for row in found if (s := row[str(k)]) is not None), default=None) for k in LEVELS}


def chosen(tried: dict[str, dict[str, int | None]]) -> dict[str, list[str]]:
    """Return the choices with the fewest steps to each level; none if it was not reached."""
    best = least(tried.values())
    return {level: [name for name, row in tried.items() if row[level] == s] if s else [] for level, s in best.items()}


def first_parameters(this: Kind, spec: FieldSpec) -> Params:
    """Return a random initialization [1, ...] that puts out the middle of the signals' range."""
    *rest, last = initial_parameters(spec, 1, generator=torch.Generator().manual_seed(0))
    return (*rest, last + this.offset)


def measure(this: Kind, width: int) -> dict[str, Any]:
    """Return the rows: steps to each level and curve of each initialization."""
    parts = this.cut.tasks
    rows: dict[str, Any] = {}
    tried: dict[str, dict[str, dict[str, int | None]]] = {"random": {}, "Reptile through Adam": {}}
    for frequency in FREQUENCIES:
        spec = FieldSpec(len(this.cut.grid), this.sets.test.values.shape[-1], width, 3, "sine", w0=frequency)
        random = first_parameters(this, spec)
        train, test = (side_by_side(this.cut, part, spec) for part in (this.sets.train, this.sets.test))
        reptile = learned(train, random, REPTILE)
        for rate in RATES:
            config = AdaptConfig(fall=this.fall, lr=rate, warm_steps=0)
            for name, cls, init in (("random", ModRandom, random), ("Reptile through Adam", Mod, reptile)):
                choice = f"{frequency:g}, {rate:g}"
                tried[name][choice], curve = steps_to(cls, test, init, config, parts)
                if choice == DEFAULT:
                    rows[name] = {"steps": tried[name][choice], "curve": curve}
        if frequency == FREQUENCIES[0]:
            maml = learned(train, random, this.maml)
            for ramp in (64, 8):
                config = AdaptConfig(fall=this.fall, warm_lr=this.maml.inner_lr, ramp=ramp)
                steps, curve = steps_to(Mod, test, maml, config, parts)
                rows[f"MAML, ramp {ramp}"] = {"steps": steps, "curve": curve}
    for name, choices in tried.items():
        rows[f"{name}, best"] = {"steps": least(choices.values()), "chosen": chosen(choices), "tried": choices}
    return rows


def main() -> None:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("image", "audio"))
    parser.add_argument("folder")
    parser.add_argument("--name", help="of the results; default: the kind")
    parser.add_argument("--width", type=int, default=32)
    arguments = parser.parse_args()
    this = kind(arguments.kind, arguments.folder)
    rows = measure(this, arguments.width)
    for name, row in rows.items():
        cells = ", ".join(f"{level} dB: {steps or '-'}" for level, steps in row["steps"].items())
        print(f"{name:28} {cells}")
    options = "" if arguments.width == 32 else f" --width {arguments.width}"
    content = {
        "command": f"python -m benchmarks.steps_to_psnr {arguments.kind} DIR{options}",
        "signals": {"train": len(this.sets.train), "test": len(this.sets.test)},
        "test": list(this.sets.test.names),
        "width": arguments.width,
        "rows": rows,
    }
    file = RESULTS / f"steps_to_psnr_{arguments.name or arguments.kind}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
