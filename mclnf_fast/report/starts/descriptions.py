"""What the reports of all systems of initializations show, for a table of several runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.report.starts import ct, image_start, photos, single_view
from mclnf_fast.report.starts.columns import curves_of
from mclnf_fast.report.starts.initializations import Description

DESCRIPTIONS: dict[str, Callable[[InitializationRecord], Description]] = {
    "single-view": single_view.described,
    "photos": photos.described,
    "image-start": image_start.describe,
    "ct": ct.describe,
}
"""System -> what describes its record."""


def initialization_csv_lines(label: str, record: InitializationRecord) -> Iterator[list[object]]:
    """Yield the mean PSNR over steps of each initialization for `page.tables.csv_text`, under the `label` of the run.

    >>> from mclnf_fast.report.record import InitializationResults
    >>> results = InitializationResults(curve={0: (10.0, 12.0)})
    >>> record = InitializationRecord(system="ct", initializations={"meta": results})
    >>> next(initialization_csv_lines("slices", record))[:7]
    ['slices', '', 'meta', 'psnr', 'logged', 0, '11.0']
    """
    looks = DESCRIPTIONS[record.system](record).looks
    for key, curve in curves_of(record, looks).items():
        tasks = len(record.names.test)
        for step, (mean, error) in curve.items():
            shown = "" if error is None else repr(error)
            yield [label, "", key, "psnr", "logged", step, repr(mean), shown, tasks, 1, record.command]
