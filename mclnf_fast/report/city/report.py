"""The page of a city run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mclnf_fast.report.city.claims import curve, sentences, tiles
from mclnf_fast.report.city.plots import forgetting_figure, meta_figure, phase_figure, steps_figure
from mclnf_fast.report.city.tables import city_looks, city_table, heat_panels, steps_table
from mclnf_fast.report.page.blocks import (
    Block,
    HeatBlock,
    LegendBlock,
    PairsBlock,
    Plot,
    PlotsBlock,
    TableBlock,
    TextBlock,
)
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.page import (
    Page,
    Section,
    closing_sections,
    grouped_pictures,
    made_on,
    write_page,
)
from mclnf_fast.report.page.plots import svg
from mclnf_fast.report.page.style import duration, number
from mclnf_fast.report.record import CityRecord

KINDS = {  # kind of picture -> heading of its section, in their order
    "overview": "The city",
    "modules": "The modules and their cells",
    "strip": "More views while they are learned",
    "triptych": "Truth, renders, errors",
    "fisher": "Fisher information of the rays",
    "curve": "More curves",
}
INTRO = (
    "The blocks of a place that was never seen before are learned one after another from photographs. Once a block is "
    "done, its photographs are gone, and after each block all blocks so far are scored again on views that were never "
    "trained on."
)
META = {  # initialization -> heading and caption of its curve
    "modules": (
        "The initialization of the modules",
        "The modules' shared initialization, while it is meta-learned on other districts",
    ),
    "joint": ("The initialization by MAML", "One network for all blocks, adapted to whole other districts"),
    "oml": ("The initialization of OML", "One network for all blocks, adapted to whole other districts"),
}


def write_city_report(folder: str | Path, record: CityRecord) -> Path:
    """Write `report.html` into a run folder, its pictures inlined; return its path.

    Args:
        folder: of the run; `config.yaml` is shown if it is there, pictures are read from it.
        record: of the run; fields at their default are left out.

    Raises: InputError, if matplotlib or jinja2 is missing (the message names the extra), or a picture's file lies
        outside the run folder.

    >>> import tempfile
    >>> write_city_report(tempfile.mkdtemp(), CityRecord(system="city", title="a city")).name
    'report.html'
    """
    place = Path(folder)
    looks = city_looks(record.methods)
    count = len(record.tasks)
    facts = [f"{count} block{'s' * (count != 1)}"] * bool(count) + made_on(record)
    groups = grouped_pictures(place, record, KINDS)
    # The first strip is the best picture of a run: it stands at the head, the others in a section of their own.
    lead = [groups["strip"].pop(0)] if "strip" in groups else []
    page = Page(
        record.title or "A city, learned block by block",
        looks,
        [
            Section("Results", _results(record, looks)),
            Section("Block by block", _matrices(record)),
            Section("Curves", _curves(record, looks)),
            *(Section(KINDS.get(kind, kind), pictures) for kind, pictures in groups.items()),
            Section("Comparisons", _comparison(record)),
            *closing_sections(place, record, ()),
        ],
        facts,
        tiles(record),
        INTRO + (f" {len(looks)} methods do this side by side." if len(looks) > 1 else ""),
        sentences(record),
        lead,
    )
    return write_page(place / "report.html", page)


def _results(record: CityRecord, looks: dict[str, Look]) -> list[Block]:
    if not looks:
        return []
    table = city_table("Results", record.methods, record.tasks, record.across, record.trivial)
    return [TableBlock(table), LegendBlock(list(looks.values()))]


def _matrices(record: CityRecord) -> list[Block]:
    panels = heat_panels(record.methods, record.tasks)
    text = (
        "PSNR of held-out views in dB. A row is a moment, after that block was learned; a column is a block. Under "
        "each figure: its change since the block was learned. The warmer, the better; one scale for all methods."
    )
    return [TextBlock(text), HeatBlock(panels)] if panels else []


def _curves(record: CityRecord, looks: dict[str, Look]) -> list[Block]:
    plots = []
    methods, shown = record.methods, list(looks.values())
    if any(curve(results) for results in methods.values()):
        caption = "PSNR of held-out views over the steps of a block, mean over the blocks."
        plots.append(Plot("PSNR over the steps of a block", svg(steps_figure(methods), shown), caption))
    if any(len(results.matrix) > 1 for results in methods.values()):
        caption = "Each block's held-out views, from when the block was learned to the end of the run."
        figure = forgetting_figure(methods, record.tasks)
        plots.append(Plot("Forgetting", svg(figure, shown), caption, wide=figure.get_figwidth() > 8))
    for name, meta in record.initializations.items():
        if len(meta.curve) > 1:
            heading, caption = META.get(name, (f"The initialization {name}", "PSNR while it is meta-learned"))
            seconds = f" ({duration(meta.seconds)})" if meta.seconds is not None else ""
            plots.append(Plot(heading, svg(meta_figure(meta)), f"{caption}{seconds}."))
    if record.phases:
        plots.append(Plot("Time of each phase", svg(phase_figure(record.phases), shown)))
    over_steps = steps_table(methods, record.trivial)
    blocks: list[Block] = [PlotsBlock(plots)] if plots else []
    return blocks + ([TableBlock(over_steps)] if over_steps else [])


def _comparison(record: CityRecord) -> Sequence[Block]:
    if record.comparison is None:
        return []
    # In words, and by block: the names of the fields are those of a file.
    reached = record.comparison.mim_steps_to_mod_final
    pairs = [
        (
            f"{block}: step at which ours (MIM) has the final PSNR of ours (mod)",
            "not reached" if step is None else f"{step:,}",
        )
        for block, step in reached.items()
    ]
    ratio = record.comparison.mim_over_mod_seconds
    pairs += [("training time of ours (MIM) over ours (mod)", number(ratio, 3))] * (ratio is not None)
    return [PairsBlock(pairs)] if pairs else []
