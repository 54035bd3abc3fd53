"""The report of a run of images, videos or sound: a table for the terminal, pictures, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mclnf_fast.report.page.blocks import Block, LegendBlock, RelationsBlock, SoundsBlock, TableBlock, Take, Tile
from mclnf_fast.report.page.leads import lead_tile
from mclnf_fast.report.page.page import Page, Section, closing_sections, grouped_pictures, made_on, write_page
from mclnf_fast.report.page.style import db, duration
from mclnf_fast.report.page.tables import Cell, Row, Table, terminal
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.relations import relations
from mclnf_fast.report.protocol.run_pictures import draw_run, load_predictions
from mclnf_fast.report.protocol.tables import Labelled, details, results, sizes, steps_to_reach, text
from mclnf_fast.report.protocol.waves import wav_uri
from mclnf_fast.report.record import Picture, SignalRecord

NOT_CLAIMED = (
    "The methods are those of arXiv 2504.05806 (MCL-NF) and of the papers it compares with. No figure of any paper is "
    "reproduced or claimed here: all figures were measured in the runs whose commands stand beside them."
)
KINDS = {  # kind of picture -> heading of its section, in their order; `qualitative` stands at the head
    "qualitative": "Truth and reconstructions",
    "curve": "PSNR over the steps",
    "reach": "Fisher information against plain modules",
    "matrix": "Forgetting",
    "meta": "Meta-training",
}
INTRO = {
    "image": "Each image that was never seen in training is cut into patches, which are learned one after another.",
    "video": "Each video that was never seen in training is cut into groups of frames, learned one after another.",
    "audio": "Each recording that was never heard in training is cut into windows, learned one after another.",
}
OURS = ("mim", "mod")
SOUND_BYTES = 2_000_000  # of the clips in a page: more would make it slow to open
INITIALIZATIONS = {
    "modules": "of the modules",
    "modules_fim": "of the modules, with Fisher information",
    "joint": "of one network, by MAML",
    "oml": "of one network, by OML",
}


def signal_table(record: SignalRecord) -> str:
    """Return the results for a terminal: PSNR at step 1, best and last, and what stands beside it.

    Of a run with `--check` the relations too.

    >>> signal_table(SignalRecord(system="image"))
    'no results yet'
    """
    run = Statistics(record)
    if not run.methods:
        return "no results yet"
    beside = details(run, run.title)
    parts = [f"{run.title}: PSNR in dB, {sizes(run)} (* best of its column)", terminal(results([_one(run)]))]
    if beside.heads:
        parts.append(terminal(beside))
    if _checked(record):
        parts.append("\n".join(f"{r.statement}: {r.verdict}" for r in relations(run)))
    return "\n\n".join(parts)


def write_run_pictures(folder: str | Path, record: SignalRecord) -> list[Picture]:
    """Draw the pictures of a run into `images/`; return them, their files relative to the folder.

    Args:
        folder: of the run; `predictions/truth.safetensors` and `predictions/<method>.safetensors` (tensor `values`, as
            `Signals.values` of the test signals) are read if they are there.
        record: of the run.

    Raises: InputError, if matplotlib is missing, or a file of predictions is corrupt or of another shape.

    >>> import tempfile
    >>> [picture.kind for picture in write_run_pictures(tempfile.mkdtemp(), SignalRecord(system="image"))]
    ['curve']
    """
    pictures = []
    for drawing in draw_run(Path(folder), _one(Statistics(record))):
        drawing.save(Path(folder) / "images" / f"{drawing.stem}.png")
        pictures.append(Picture(drawing.kind, f"images/{drawing.stem}.png", drawing.caption))
    return pictures


def write_signal_report(folder: str | Path, record: SignalRecord) -> Path:
    """Write `report.html` into a run's folder, its pictures inlined; return its path.

    Args:
        folder: of the run; `config.yaml` is shown if it is there, pictures are read from it.
        record: of the run; fields at their default are left out.

    Raises: InputError, if jinja2 is missing (the message names the extra), or a picture's file lies outside the folder.

    >>> import tempfile
    >>> write_signal_report(tempfile.mkdtemp(), SignalRecord(system="image")).name
    'report.html'
    """
    place, run = Path(folder), Statistics(record)
    groups = grouped_pictures(place, record, KINDS)
    intro = INTRO.get(run.kind, "Each test signal is cut into tasks, which are learned one after another.")
    lead = groups.pop("qualitative", [])
    meta = _meta_training(record)
    page = Page(
        run.title,
        run.looks,
        [
            Section("Listen", _sounds(place, run)),
            *_results(run),
            *(Section(KINDS.get(kind, kind), pictures) for kind, pictures in groups.items()),
            Section("The meta-learned initializations", [TableBlock(meta)] if meta.rows else []),
            *closing_sections(place, record, [NOT_CLAIMED], _signals(record)),
        ],
        _facts(run),
        tiles(run),
        f"{intro} After the last task the whole signal is scored, and so is what was learned first.",
        lead=lead,
    )
    return write_page(place / "report.html", page)


def _one(run: Statistics) -> Labelled:
    return Labelled(run.title, run)


def _checked(record: SignalRecord) -> bool:
    # What this project demands of its methods is not what a user has asked of a run.
    return record.config.get("relations") is True


def _results(run: Statistics) -> list[Section]:
    if not run.methods:
        return []
    beside, reached = details(run, run.title), steps_to_reach(run, run.title)
    blocks: list[Block] = [TableBlock(results([_one(run)])), LegendBlock(list(run.looks.values()))]
    return [
        Section("Results", blocks),
        Section("Relations that must hold", [RelationsBlock(relations(run))] if _checked(run.record) else []),
        Section("Beside the PSNR", [TableBlock(beside)]),
        Section("Steps to a PSNR", [TableBlock(reached)] if reached else []),
    ]


def tiles(run: Statistics) -> list[Tile]:
    """Return the figures of the head: PSNR of the modules, forgetting, the lead over the best sequential rival.

    >>> tiles(Statistics(SignalRecord(system="image")))
    []
    """
    ours = [m for m in OURS if m in run.looks]
    out = [
        Tile(
            text(last) if last.exact else db(last.mean, unit=True), f"PSNR of {run.looks[m].name} at step {run.last:,}"
        )
        for m in ours
        if (last := run.final(m)) is not None
    ]
    changes = [change for m in ours if (change := run.largest_change(m)) is not None]
    if changes:
        # Exactly, not as shown: modules must not change by a bit, and a rounded 0.00 would hide that they do.
        exact = max(changes) == 0.0
        changed = "0 dB" if exact else f"{max(changes):.2g} dB"
        label = "forgotten by the modules, bit for bit" if exact else "largest change of a module"
        out.append(Tile(changed, label, exact))
    if "finetune" in run.looks and (lost := run.forgetting("finetune")) is not None:
        out.append(Tile(db(lost.mean, unit=True), "forgotten by the fine-tuned network"))
    return out + (_rival(run, ours[-1]) if ours else [])


def _rival(run: Statistics, ours: str) -> list[Tile]:
    """Return the lead of modules over the best other method that learns in sequence."""
    # Variants of our own are no rivals: a lead over one would say nothing about other methods.
    rivals = {
        m: e.level
        for m in run.methods
        if run.sequential(m) and not m.startswith(OURS) and (e := run.final(m)) is not None
    }
    last = run.final(ours)
    if not rivals or last is None:
        return []
    best = max(rivals, key=lambda m: rivals[m])
    gap = last.level - rivals[best]
    label = f"{run.looks[ours].name} against {run.looks[best].name}, the best other that learns in sequence"
    return [lead_tile(gap, run.lead_error(ours, best), label)]


def _facts(run: Statistics) -> list[str]:
    count = len(run.record.tasks)
    facts = [f"{count} tasks per signal"] if count else []
    facts.append(sizes(run))
    facts += [f"{run.last:,} steps per task"] if run.last else []
    return facts + made_on(run.record)


def _sounds(folder: Path, run: Statistics) -> list[Block]:
    """Return the first test clips, as many as keep the page small, of the truth and of every method."""
    if run.kind != "audio" or not run.record.rate:
        return []
    predictions = load_predictions(folder, run)
    if predictions is None:
        return []
    truth, values = predictions
    bytes_of_clip = 2 * truth.shape[1] * (1 + len(values))
    count = min(len(truth), max(1, SOUND_BYTES // bytes_of_clip))
    signals = []
    for s in range(count):
        takes = [("truth", "truth", truth), *((m, run.looks[m].name, v) for m, v in values.items())]
        uris = [Take(key, name, wav_uri(v[s, :, 0].numpy(), run.record.rate)) for key, name, v in takes]
        signals.append((run.signals[s] if s < len(run.signals) else f"clip {s + 1}", uris))
    return [SoundsBlock(signals)]


def _meta_training(record: SignalRecord) -> Table:
    """Return how the initializations were meta-learned, of the first seed that has any."""
    initializations = next((seed.initializations for seed in record.seeds.values() if seed.initializations), {})
    rows = []
    for name, meta in initializations.items():
        checks = [row[2] for row in meta.curve if len(row) > 2 and row[2] is not None]
        cells = [
            "-" if meta.outer_steps is None else f"{meta.outer_steps:,}",
            f"{checks[0]:.2f} to {checks[-1]:.2f}" if checks else "-",
            duration(meta.seconds),
            "-" if meta.parameters is None else f"{meta.parameters:,}",
        ]
        rows.append(Row("", "", INITIALIZATIONS.get(name, name.replace("_", " ")), tuple(map(Cell, cells))))
    heads = ("outer steps", "validation PSNR (dB), first to last", "time", "parameters")
    return Table("", heads, tuple(rows), first="initialization")


def _signals(record: SignalRecord) -> Sequence[tuple[str, str]]:
    return [(f"{use} signals", f"{len(names)}: {', '.join(names)}") for use, names in record.names.by_use.items()]
