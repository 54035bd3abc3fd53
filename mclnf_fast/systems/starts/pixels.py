"""What image-start and ct have in common: their pictures, the learning of the start, and how starts are continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data import load_images
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.meta.episodes import DrawLoss, DrawnEpisodes
from mclnf_fast.learn.meta.trainer import CURVE_POINTS, MetaTrainer, loss_curve
from mclnf_fast.learn.params import LossFn, Params
from mclnf_fast.metrics import log_steps, mse_to_psnr
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.report.record import InitializationRecord, InitializationResults, MetaTraining, Names, from_json
from mclnf_fast.systems.common.folder import progress
from mclnf_fast.systems.common.run import Run, say
from mclnf_fast.systems.starts.pixel_options import PixelConfig


def load_pictures(config: PixelConfig, channels: int, make: Callable[..., SignalSets]) -> SignalSets:
    """Reads the pictures of `config.data`, or makes them: `make(count, size, seed=, test=, validation=)`.

    Raises InputError where a folder is unusable, or leaves none to learn from.
    """
    pictures, folder = config.data, config.data.path
    if folder is None:
        held = min(4, pictures.procedural - pictures.tests - 1)
        return make(pictures.procedural, pictures.size, seed=config.seed, test=pictures.tests, validation=held)
    options: dict[str, Any] = {"limit": pictures.limit, "strict": pictures.strict, "resize": pictures.resize or None}
    if pictures.test is not None:
        options["test"] = pictures.test
    sets = load_images(folder, size=pictures.size, channels=channels, seed=config.seed, **options)
    if not len(sets.train):
        raise InputError(f"data: needs pictures to learn from and others to test on, got 0 and {len(sets.test)}")
    return sets


def announce(config: PixelConfig, sets: SignalSets, network: str) -> None:
    """What the run is about, for the terminal."""
    counts = f"{len(sets.train)} to learn from, {len(sets.test)} to test on"
    say(f"{sets.title}: {counts}, {config.data.size} x {config.data.size}")
    say(f"{network}; meta-batch of {config.meta.tasks}")
    for note in sets.notes:
        say(f"note: {note}")


def learned_start(run: Run[Any], init: Params, tasks: int, draw: DrawLoss) -> tuple[Params, dict[str, Any]]:
    """The meta-learned start [1, ...], from where a former process has left it, and what to report of the learning:
    the loss of the last inner step (in MAML: after it) as `curve`, in dB."""
    config: PixelConfig = run.config
    episodes = DrawnEpisodes(tasks, draw, config.meta.tasks)
    learner = MetaTrainer(init, episodes, config.meta, config.seed, curve_points=CURVE_POINTS)
    run.learn(learner, "meta", "learning the initialization")
    curve = [[s, float(mse_to_psnr(v))] for s, v in loss_curve(learner.curve)]
    return learner.params, {"curve": curve, "seconds": learner.seconds}


def continued(
    run: Run[Any],
    name: str,
    before: Params,
    loss: LossFn,
    steps: int,
    lr: float,
    score: Callable[[Params], Sequence[float]],
    picture: Callable[[Params], Tensor],
    *,
    kind: StepKind = "sgd",
    keep: Sequence[int] = (0,),
) -> tuple[dict[str, Any], Tensor]:
    """A start continued on T tasks side by side, or what is known of it from before.

    Args:
        before: tensors [T, ...].
        loss, steps, lr, kind: as `learn.fine_tune`'s.
        score: of each task, taken at the steps 0, 1, 2, 4, ... and the last.
        picture: [T, ...], kept in the folder's predictions under `name` after each of `keep` and after the last step.

    Returns: `{"curve": {step: scores}, "after": scores, "fit": {step: losses}, "kept": steps, "seconds"}`, and the
    losses [steps, T] before each step.
    """
    state = run.folder.load_state(f"adapted_{name}")
    if state is not None:
        return state[1], state[0]["losses"]
    kept = sorted({k for k in keep if 0 <= k < steps} | {steps})
    wanted = {*log_steps(steps), *kept} - {0}
    pictures = [picture(before)] if 0 in kept else []
    row: dict[str, Any] = {"curve": {"0": list(score(before))}, "fit": {}, "kept": kept, "seconds": 0.0}
    losses: list[Tensor] = []
    with run.phases("adapting"), progress(name, steps) as bar:
        began = time.perf_counter()

        def after(step: int, params: Params, found: Tensor) -> None:
            nonlocal began
            bar(1)
            losses.append(found.cpu())
            if step in wanted:
                row["seconds"] += time.perf_counter() - began
                row["curve"][str(step)] = list(score(params))
                if step in kept:
                    pictures.append(picture(params))
                began = time.perf_counter()

        fine_tune(before, loss, steps, lr, kind=kind, callback=after)
    row["after"] = row["curve"][str(steps)]
    made = torch.stack(losses)
    row["fit"] = {str(k): made[k].tolist() for k in (0, *sorted(wanted)) if k < steps}
    run.folder.save_values(name, torch.stack(pictures).cpu())
    run.folder.save_state(f"adapted_{name}", {"losses": made}, row)
    run.save_phases()
    return row, made


def described(
    run: Run[Any], sets: SignalSets, title: str, about: dict[str, Any], rows: dict[str, Any]
) -> InitializationRecord:
    """Return the record of a run of either, from what its meta-training and each of its initializations returned."""
    config: PixelConfig = run.config
    return InitializationRecord(
        **run.facts(),
        title=title[:1].upper() + title[1:],
        notes=tuple(sets.notes),
        names=Names(tuple(sets.train.names), test=tuple(sets.test.names)),
        size=(config.data.size, config.data.size),
        steps=(0, *log_steps(config.steps)),
        meta=from_json(MetaTraining, about),
        initializations={name: from_json(InitializationResults, row) for name, row in rows.items()},
    )
