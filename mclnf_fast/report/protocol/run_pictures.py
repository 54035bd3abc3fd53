"""The pictures of one run or of several: drawn here, saved by who asked for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mclnf_fast.errors import InputError
from mclnf_fast.report.page import plots
from mclnf_fast.report.page.canvas import save_image
from mclnf_fast.report.protocol.counts import Protocol, finite, mapping, numbers
from mclnf_fast.report.protocol.filmstrip import filmstrip
from mclnf_fast.report.protocol.matrices import matrices_figure
from mclnf_fast.report.protocol.plots import meta_figure, reach_figure, signed, steps_figure
from mclnf_fast.report.protocol.qualitative import qualitative_picture, small_enough
from mclnf_fast.report.protocol.tables import Labelled

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4  # most test signals of a grid
FRAMES = 8  # most frames of a filmstrip


@dataclass(frozen=True)
class Drawn:
    """A picture that is not on disk yet: `image` is Pillow's or a matplotlib figure."""

    kind: str
    stem: str
    caption: str
    image: Any

    def save(self, path: Path) -> Path:
        """Write it as a PNG, whole or not at all."""
        if hasattr(self.image, "savefig"):
            return plots.save(self.image, path)
        return save_image(path, self.image)


def draw_run(folder: Path, one: Labelled, made: str = "") -> list[Drawn]:
    """All pictures of one run. Args: `made`, the command that draws them, where it is not the run's own."""
    return [*draw_signals(folder, one, made), *draw_figures([one], made)]


def draw_figures(runs: Sequence[Labelled], made: str = "") -> list[Drawn]:
    """The figures that several runs share, a panel a run; those that no run has anything for are left out."""
    commands = [r.run.command for r in runs]
    out = [
        Drawn(
            "curve",
            "psnr_over_steps",
            "PSNR of the whole signal after the sequence, over the steps a task.",
            steps_figure(runs),
        )
    ]
    variants = [m for r in runs for m in r.run.methods if m.startswith("mim")]
    for m in dict.fromkeys(variants):
        figure = reach_figure(runs, m)
        if figure is not None:
            caption = (
                f"The step at which {m} reaches mod's final PSNR, in percent of mod's steps: a bar a test signal "
                "(median of the seeds), a dot a seed; hatched or crossed: not reached."
            )
            out.append(Drawn("reach", f"{m}_against_mod", caption, figure))
    if any(r.run.matrix(m).size for r in runs for m in r.run.methods):
        caption = (
            "PSNR in dB of every task (columns) after every task (rows), mean over test signals and seeds. Bold: when "
            "the task was learned. Above the white stairs: tasks that were not learned yet."
        )
        out.append(Drawn("matrix", "forgetting", caption, matrices_figure(runs)))
    figure = meta_figure(runs)
    if figure is not None:
        caption = "PSNR after adaptation while the shared starts are meta-trained; bold: on the validation signals."
        out.append(Drawn("meta", "meta_training", caption, figure))
    for drawn in out:
        signed(drawn.image, commands, made)
    return out


def draw_signals(folder: Path, one: Labelled, made: str = "") -> list[Drawn]:
    """The qualitative grid from the predictions of a run, of a video a filmstrip too; none without predictions."""
    from mclnf_fast.metrics import psnr

    run = one.run
    found = load_predictions(folder, run)
    if found is None:
        return []
    truth, values = found
    # Of the very numbers that are shown: exact hits, which have no finite PSNR, are `-`.
    figures = {m: [finite(float(v)) for v in psnr(p, truth, keep_first=True)] for m, p in values.items()}
    names = run.signals if len(run.signals) == len(truth) else ()
    lines = [f"run: {run.command}"] * bool(run.command) + [f"figure: {made}"] * bool(made)
    title = f"{one.label}: test signals after {run.last:,} steps a task" if run.last else one.label
    options: dict[str, Any] = {"looks": run.looks, "title": title, "lines": lines}

    def grid(rows: int) -> Any:
        some = {m: v[:rows] for m, v in values.items()}
        second = _second(run) if run.kind == "audio" else None
        rate = finite(run.metrics.get("rate"))
        return qualitative_picture(run.kind, truth[:rows], some, figures, rate, names=names, second=second, **options)

    try:
        image, shown = small_enough(grid, min(ROWS, len(truth)))
        out = [Drawn("qualitative", "qualitative", _caption(run, shown, len(truth)), image)]
        if run.kind == "video":
            first = {m: v[0] for m, v in values.items()}
            options["title"] = f"{one.label}: {names[0] if names else 'the first test signal'}, frame by frame"
            film, _ = small_enough(lambda n: filmstrip(truth[0], first, n, **options), FRAMES)
            caption = "The first test video after the sequence: frames from first to last, each with its own PSNR."
            out.append(Drawn("qualitative", "filmstrip", caption, film))
    except ValueError as error:
        raise InputError(f"{folder / 'predictions'}: must hold what metrics.json describes, but: {error}") from None
    return out


def load_predictions(folder: Path, run: Protocol) -> tuple[Tensor, dict[str, Tensor]] | None:
    """(truth, method -> values) as the run left them, or None where it left none.

    Raises: InputError, naming the file, where one is torn or has no tensor `values`.
    """
    place = folder / "predictions"
    if not (place / "truth.safetensors").is_file():
        return None
    truth = _values(place / "truth.safetensors")
    files = {m: place / f"{m}.safetensors" for m in run.methods}
    values = {m: _values(f) for m, f in files.items() if f.is_file()}
    for m, v in values.items():
        if v.shape != truth.shape:
            raise InputError(f"{files[m]}: values must be {tuple(truth.shape)} like the truth, got {tuple(v.shape)}")
    return (truth, values) if values and truth.numel() else None


def _values(file: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(file.read_bytes())["values"].float()
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{file}: must be safetensors with a tensor `values`, but: {error}") from None


def _second(run: Protocol) -> Mapping[str, Sequence[float | None]]:
    """SI-SDR at the last step, of the first seed, by method."""
    out = {}
    for m in run.methods:
        row = next(iter(run.rows[m].values()))
        curve = mapping(mapping(row.get("curve")).get("si_sdr"))
        out[m] = [finite(v) for v in numbers(curve.get(str(run.last)))]
    return out if any(out.values()) else {}


def _caption(run: Protocol, shown: int, of: int) -> str:
    which = (
        "The test signal"
        if of == 1
        else f"The first {shown} of {of} test signals"
        if shown < of
        else "The test signals"
    )
    what = {
        "image": "whole, and below it the detail in which the methods differ most, which is framed in the truth",
        "video": "the middle frame, and below it the detail in which the methods differ most",
        "audio": "waveform over the truth's in gray, and spectrogram",
    }.get(run.kind, "")
    return f"{which}, first seed, last step: {what}. Under each its PSNR over the whole signal, the best underlined."
