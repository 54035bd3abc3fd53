"""A lead within its standard error is praised nowhere: no green tile, no sentence that makes a win of it."""

from __future__ import annotations

import pytest
from fake_run import city

from mclnf_fast.report.city.claims import sentences, tiles
from mclnf_fast.report.page.blocks import Tile
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.report import tiles as signal_tiles
from mclnf_fast.report.record import InitializationRecord, InitializationResults, record_from_json
from mclnf_fast.report.starts import ct, image_start, single_view
from mclnf_fast.report.starts.rays import tiles as ray_tiles

# (figures of ours, of the other) -> (whether the tile is good, what its label says)
CASES = [
    ((20.0, 22.0), (19.0, 21.0), True, "± 0.00 dB"),
    ((20.0, 22.0), (21.0, 23.0), False, "± 0.00 dB"),
    ((20.0, 22.0), (19.0, 22.5), None, "within the error, ± 0.75 dB"),
    ((20.0, 22.0), (20.5, 22.0), None, "within the error, ± 0.25 dB"),
    ((20.0,), (19.0,), None, "its error is unknown"),
]


def check(tile: Tile, good: bool | None, label: str) -> None:
    assert tile.good is good
    assert label in tile.label.replace("\u00a0", " ")


@pytest.mark.parametrize(("ours", "other", "good", "label"), CASES)
def test_of_initializations(ours, other, good, label):
    both = {"meta": ours, "matched": other}
    rows = {name: InitializationResults(after=v, curve={0: v, 2: v, 8: v}) for name, v in both.items()}
    record = InitializationRecord(system="single-view", steps=(0, 2, 8), initializations=rows)
    check(ray_tiles(record, single_view.wording_of(record))[1], good, label)
    check(ct.describe(record).tiles[1], good, label)
    early, last = (tile for tile in image_start.describe(record).tiles if "against" in tile.label)
    check(early, good, label)
    check(last, good, label)


@pytest.mark.parametrize(("ours", "other", "good", "label"), CASES)
def test_of_methods_on_signals(ours, other, good, label):
    rows = {
        "mod": {"category": "MCL", "curve": {"psnr": {"8": list(ours)}}},
        "er": {"category": "CL", "curve": {"psnr": {"8": list(other)}}},
    }
    content = {"version": 2, "kind": "signals", "system": "image", "seeds": {"0": {"methods": rows}}}
    check(signal_tiles(Statistics(record_from_json(content)))[-1], good, label)


@pytest.mark.parametrize(("ours", "other", "good", "label"), CASES)
def test_of_modules_of_a_city(ours, other, good, label):
    summary = {
        name: {
            "psnr_at_step": {"8": sum(values) / len(values)},
            "psnr_at_step_by_task": [{"8": value} for value in values],
        }
        for name, values in (("mod", ours), ("mod_random", other))
    }
    (tile,) = (t for t in tiles(city({"summary": summary})) if "random initialization" in t.label)
    check(tile, good, label)


def test_a_sentence_makes_no_win_of_it():
    def said(mim: list[float], mod: list[float]) -> str:
        rows = {"mim": mim, "mod": mod}
        summary = {m: {"psnr_mean": sum(v) / 2, "matrix": [[v[0], None], v]} for m, v in rows.items()}
        return next(s for s in sentences(city({"summary": summary})) if "Fisher" in s)

    assert "within the error over the blocks, 0.75" in said([20.0, 22.0], [19.0, 22.5])
    assert "level with plain modules (+0.25 dB" in said([20.0, 22.0], [19.0, 22.5])
    assert "1.00 dB above plain modules" in said([20.0, 22.0], [19.0, 21.0])
