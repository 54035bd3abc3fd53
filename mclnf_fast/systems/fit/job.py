"""What `mclnf-fast fit` does: a folder into one bank, and back."""

from __future__ import annotations

import dataclasses
import pathlib

from mclnf_fast.cpus import use_threads
from mclnf_fast.data import FileReadOptions, SignalFiles
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fit import FitOptions, FitSummary
from mclnf_fast.learn.fit.run import fit_source
from mclnf_fast.learn.fit.store import parts_of
from mclnf_fast.systems.common.lock import lock, unlock
from mclnf_fast.systems.fit.api import HIDDEN_LAYERS, W0, WIDTH, default_spec, folder_start
from mclnf_fast.systems.fit.decode import decode_bank
from mclnf_fast.systems.fit.folder import FolderSource
from mclnf_fast.systems.fit.show import report, shown_progress


@dataclasses.dataclass(frozen=True)
class FitJob:
    """The options of `mclnf-fast fit`.

    Attributes:
        folder: of the files.
        out: file of the bank.
        reading: how files are read.
        options: of the fit.
        steps, target_psnr: as `mclnf_fast.fit`.
        start: a file, the folder of a run, or the name of an initialization that comes with the package.
        width, hidden_layers, w0: of the fields; None: those of the start, or the defaults.
        strict: refuse an unusable file.
        decode: folder for the signals that the fields have learned.
        threads: None: one per CPU that this process may use.
    """

    folder: pathlib.Path
    out: pathlib.Path
    reading: FileReadOptions
    options: FitOptions
    steps: int = 2000
    target_psnr: float | None = None
    start: str | None = None
    width: int | None = None
    hidden_layers: int | None = None
    w0: float | None = None
    strict: bool = False
    decode: pathlib.Path | None = None
    threads: int | None = None


def run_fit(job: FitJob) -> FitSummary:
    """Fit the signals of a folder into one bank, print what came of it, and write them back if that is asked for.

    Raises InputError if an option or the folder is unusable.
    """
    use_threads(job.threads)
    _check_out(job.out, job.options.resume)
    files = SignalFiles(job.folder, job.reading)
    shape = {"width": job.width, "hidden_layers": job.hidden_layers, "w0": job.w0}
    chosen = {name: value for name, value in shape.items() if value is not None}
    usual = {"width": WIDTH, "hidden_layers": HIDDEN_LAYERS, "w0": W0}
    # Of a start the numbers may only repeat what it has.
    spec = None if job.start is not None else default_spec(files, **{**usual, **chosen})  # type: ignore[arg-type]
    spec, start, places = folder_start(files, job.start, spec, job.options.seed)
    for name, value in chosen.items():
        if getattr(spec, name) != value:
            flag = name.replace("_", "-")
            raise InputError(f"{flag} must be that of the start, {getattr(spec, name)}, got {value}")
    print(f"{len(files)} {files.kind} files, a field of {spec.num_parameters:,} parameters each", flush=True)
    # The folder of the parts, since two processes that write one bank would destroy each other's.
    parts = parts_of(job.out)
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {job.out} must be in a folder that can be written, but: {error}") from None
    lock(parts)
    try:
        options = dataclasses.replace(job.options, file=job.out)
        source = FolderSource(files, places, job.strict)
        with shown_progress() as show:
            summary = fit_source(source, start, job.steps, job.target_psnr, options, show)
    finally:
        unlock(parts)
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()
    print(report(summary))
    rate = f" ({summary.seconds:.1f} s, {summary.fields_per_second:.3g} fields/s)" if summary.seconds else ""
    print(f"{len(summary)} fields in {job.out}{rate}", flush=True)
    if job.decode is not None:
        written = decode_bank(job.out, job.decode)
        print(f"{len(written)} signals in {job.decode}", flush=True)
    return summary


def _check_out(out: pathlib.Path, resume: bool) -> None:
    if not out.name or "\0" in str(out):
        raise InputError(f"out must name a file, got {str(out)!r}")
    if out.is_dir():
        raise InputError(f"out must be the file of a bank, got {out}, which is a folder")
    if out.exists() and not out.is_file():
        raise InputError(f"out must be a file, got {out}, which is a pipe or a device")
    if out.exists() and not resume:
        raise InputError(f"out: {out} must be new, but is there already; --resume continues a fit")
    if not resume and any(parts_of(out).glob("*.safetensors")):
        raise InputError(f"out: {parts_of(out)} holds a fit that was stopped; --resume continues it")
