"""The pictures of one run or of several: drawn here, saved by whoever needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.metrics import psnr
from mclnf_fast.report.page import plots
from mclnf_fast.report.page.canvas import save_image
from mclnf_fast.report.page.style import finite
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.filmstrip import filmstrip
from mclnf_fast.report.protocol.matrices import matrices_figure
from mclnf_fast.report.protocol.plots import meta_figure, reach_figure, signed, steps_figure
from mclnf_fast.report.protocol.qualitative import Labels, Sound, qualitative_picture, small_enough
from mclnf_fast.report.protocol.tables import Labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image as PilImage
    from torch import Tensor

ROWS = 4  # the most test signals of a grid
FRAMES = 8  # the most frames of a filmstrip


@dataclass(frozen=True)
class Drawing:
    """A picture that is not on disk yet: its kind and caption, the stem of its file, its image."""

    kind: str
    stem: str
    caption: str
    image: PilImage.Image | Figure

    def save(self, path: Path) -> Path:
        """Write it as a PNG, whole or not at all; return its path."""
        from matplotlib.figure import Figure

        return plots.save(self.image, path) if isinstance(self.image, Figure) else save_image(path, self.image)


def draw_run(folder: Path, run: Labelled) -> list[Drawing]:
    """Return all pictures of one run, which are signed with its command."""
    return [*draw_signals(folder, run), *draw_figures([run])]


def draw_figures(runs: Sequence[Labelled], command: str = "") -> list[Drawing]:
    """Return the figures that several runs share, a panel per run; a figure for which no run has data is left out.

    `command` draws the figures, if it is not that of the run.
    """
    caption = "PSNR of the whole signal after the sequence, over the steps per task."
    figures: list[tuple[str, str, str, Figure | None]] = [
        ("curve", "psnr_over_steps", caption, steps_figure(runs)),
    ]
    for m in dict.fromkeys(m for r in runs for m in r.run.methods if m.startswith("mim")):
        caption = (
            f"The step at which {m} reaches mod's final PSNR, in percent of mod's steps: a bar per test signal "
            "(median of the seeds), a dot per seed; hatched or crossed: not reached."
        )
        figures.append(("reach", f"{m}_against_mod", caption, reach_figure(runs, m)))
    if any(r.run.matrix(m).size for r in runs for m in r.run.methods):
        caption = (
            "PSNR in dB of every task (columns) after every task (rows), mean over test signals and seeds. Bold: when "
            "the task was learned. Above the white stairs: tasks that were not learned yet."
        )
        figures.append(("matrix", "forgetting", caption, matrices_figure(runs)))
    caption = "PSNR after adaptation while the initializations are meta-trained; bold: on the validation signals."
    figures.append(("meta", "meta_training", caption, meta_figure(runs)))
    commands = [r.run.command for r in runs]
    return [
        Drawing(kind, stem, caption, signed(figure, commands, command))
        for kind, stem, caption, figure in figures
        if figure is not None
    ]


def draw_signals(folder: Path, labelled: Labelled, command: str = "") -> list[Drawing]:
    """Return the qualitative grid from the predictions of a run, of a video a filmstrip too; none without them.

    Raises: InputError, if the predictions do not fit the record.
    """
    run = labelled.run
    predictions = load_predictions(folder, run)
    if predictions is None:
        return []
    truth, values = predictions
    # Of the very numbers that are shown: exact hits, which have no finite PSNR, are `-`.
    figures = {m: [finite(float(v)) for v in psnr(p, truth, keep_first=True)] for m, p in values.items()}
    names = run.signals if len(run.signals) == len(truth) else ()
    lines = [f"run: {run.command}"] * bool(run.command) + [f"figure: {command}"] * bool(command)
    title = f"{labelled.label}: test signals after {run.last:,} steps per task" if run.last else labelled.label
    labels = Labels(names, run.looks, title, lines)
    sound = Sound(run.record.rate, _si_sdr(run)) if run.kind == "audio" else None

    def grid(rows: int) -> PilImage.Image:
        first = {m: v[:rows] for m, v in values.items()}
        return qualitative_picture(run.kind, truth[:rows], first, figures, labels, sound=sound)

    def film(frames: int) -> PilImage.Image:
        title = f"{labelled.label}: {names[0] if names else 'the first test signal'}, frame by frame"
        first = {m: v[0] for m, v in values.items()}
        return filmstrip(truth[0], first, frames, Labels(looks=run.looks, title=title, lines=lines))

    try:
        image, rows = small_enough(grid, min(ROWS, len(truth)))
        drawings = [Drawing("qualitative", "qualitative", _caption(run, rows, len(truth)), image)]
        if run.kind == "video":
            image, _ = small_enough(film, FRAMES)
            caption = "The first test video after the sequence: frames from first to last, each with its own PSNR."
            drawings.append(Drawing("qualitative", "filmstrip", caption, image))
    except ValueError as error:
        raise InputError(f"{folder / 'predictions'}: must fit metrics.json, but: {error}") from None
    return drawings


def load_predictions(folder: Path, run: Statistics) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Return (truth, method -> values) from a run's folder, or None if it has none.

    Raises: InputError that names the file, if one is corrupt or has no tensor `values`.
    """
    place = folder / "predictions"
    if not (place / "truth.safetensors").is_file():
        return None
    truth = _values(place / "truth.safetensors")
    files = {m: place / f"{m}.safetensors" for m in run.methods}
    values = {m: _values(file) for m, file in files.items() if file.is_file()}
    for m, v in values.items():
        if v.shape != truth.shape:
            raise InputError(f"{files[m]}: values must be {tuple(truth.shape)} like the truth, got {tuple(v.shape)}")
    return (truth, values) if values and truth.numel() else None


def _values(file: Path) -> Tensor:
    # With its checksum: a damaged file would be drawn as if the method had learned that.
    tensors, _ = load_tensors(file)
    if "values" not in tensors:
        raise InputError(f"{file}: must hold a tensor `values`, but has {', '.join(tensors) or 'none'}")
    return tensors["values"].float()


def _si_sdr(run: Statistics) -> Mapping[str, Sequence[float | None]]:
    """Return SI-SDR at the last step, of the first seed, by method."""
    # The first seed, of which the predictions in the pictures are.
    rows = {m: next(iter(run.rows[m].values())).curve.get("si_sdr", {}).get(run.last, ()) for m in run.methods}
    return rows if any(rows.values()) else {}


def _caption(run: Statistics, shown: int, count: int) -> str:
    which = (
        "The test signal"
        if count == 1
        else f"The first {shown} of {count} test signals"
        if shown < count
        else "The test signals"
    )
    content = {
        "image": "whole, and below it the detail in which the methods differ most, which is framed in the truth",
        "video": "the middle frame, and below it the detail in which the methods differ most",
        "audio": "waveform over the truth's in gray, and spectrogram",
    }.get(run.kind, "")
    return f"{which}, first seed, last step: {content}. Under each its PSNR over the whole signal, the best underlined."
