"""`mclnf_fast.fit`: a field for every signal of tensors, an iterator or a folder."""

from __future__ import annotations

import os
import pathlib

from mclnf_fast.data import FileReadOptions, SignalFiles
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank, load_bank
from mclnf_fast.fields.io import load_meta
from mclnf_fast.learn.fit import FitOptions, FitSummary, SampleSource, Start, fit_bank, source_of
from mclnf_fast.learn.fit.options import options_from
from mclnf_fast.learn.fit.run import Show
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.pretrained import is_pretrained, pretrained_names, pretrained_result
from mclnf_fast.systems.common.result import read_result
from mclnf_fast.systems.fit.folder import FolderSource
from mclnf_fast.systems.fit.places import Places

WIDTH, HIDDEN_LAYERS, W0 = 64, 3, 30.0


def fit(
    spec: FieldSpec | None,
    x: object,
    y: object = None,
    steps: int = 2000,
    start: object = None,
    target_psnr: float | None = None,
    options: FitOptions | None = None,
    progress: Show | None = None,
    **changes: object,
) -> tuple[FieldBank, FitSummary]:
    """Fit a field to every signal, by many steps of Adam each, and return the bank with what came of it.

    The steps are made by `ops.bank_fit`, some modules at a time, in calls of a fraction of a second: Ctrl-C ends it at
    once. No bit depends on the number of threads, the modules beside a module, or where it is stopped and resumed.

    Args:
        spec: the architecture, without a learned grid; None: that of `start`, and of a folder without one a SIREN of
            three hidden layers of width 64.
        x: coordinates [n, in_dim] of all signals; [M, n, in_dim]; or M tensors [n_m, in_dim]. Without y: an iterable
            of pairs (x_m, y_m), which is read as it is needed and may be larger than memory; or a folder of pictures,
            sounds or clips (`data.SignalFiles` to read it with options), whose samples lie in -1 ... 1, those of sound
            in 50 per second.
        y: values [M, n, out_dim]; [n, out_dim] of one signal; M tensors [n_m, out_dim]; or an iterator of values of
            signals that share x.
        steps: of every module.
        start: where modules begin. None: at one random initialization, the same for all. A bank of one module, or of
            none, whose shared initialization is taken; a bank of M modules; parameters [1, ...] or [M, ...]; a file of
            `save_bank`; what `mclnf_fast.load` returns, or the folder that it takes; or the name of an initialization
            that comes with the package, such as "faces".
        target_psnr: a module stops when its PSNR over all its samples is at least this, in dB, looked at every
            `options.check_every` steps.
        options: see `FitOptions`; None: its defaults.
        progress: called with a `FitProgress` a few times per second; what it raises ends the fit.
        changes: single fields of `options`, such as `batch=512` or `file="faces.safetensors"`.

    Returns:
        The bank and a `FitSummary`: PSNR, steps and end of each module, and what is wrong with those that diverged or
        have samples that are not finite; they keep their last finite state and stop none of the others.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape or value; a module without samples.
        InputError: a start of another architecture, a folder without a usable file, a `file` that is there already.
        OSError: `options.file` cannot be written; the chunks that were written stay, and `resume=True` goes on.

    Example:
        >>> import torch
        >>> spec = FieldSpec(1, 1, width=16, hidden_layers=2, activation="sine(10)")
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> y = torch.stack([torch.sin(k * x) for k in (1, 2, 3)])
        >>> bank, summary = fit(spec, x, y, steps=200)
        >>> len(bank), bool((summary.psnr > 30).all())
        (3, True)
    """
    settings = options_from(options, changes)
    if isinstance(x, str | os.PathLike):
        if y is not None:
            raise TypeError(f"y must be None beside a folder, got {type(y).__name__}")
        x = SignalFiles(pathlib.Path(x), FileReadOptions())
    if isinstance(x, SignalFiles):
        spec, begin, places = folder_start(x, start, spec, settings.seed)
        source: SampleSource = FolderSource(x, places)
    else:
        begun, _ = resolved_start(start)
        spec = spec or getattr(begun, "spec", None)
        if not isinstance(spec, FieldSpec):
            raise TypeError(f"spec must be a FieldSpec, got {type(spec).__name__}")
        source, begin = source_of(spec, x, y), Start(spec, begun, settings.seed)
    return fit_bank(source, begin, steps, target_psnr, settings, progress)


def resolved_start(start: object) -> tuple[object, Places | None]:
    """Return a start as `Start` takes it, with the coordinates that it was learned in; None: unknown.

    Raises InputError if it is no file, no run and no name.

    >>> resolved_start(None)
    (None, None)
    """
    if isinstance(start, str | os.PathLike) and not pathlib.Path(start).is_file():
        path = pathlib.Path(start)
        if is_pretrained(path):
            start = pretrained_result(str(start))
        elif path.is_dir():
            start = read_result(path)
        else:
            names = ", ".join(pretrained_names())
            raise InputError(f"start: {start} must be the file of a bank, the folder of a run, or one of {names}")
    frame, bank = getattr(start, "frame", None), getattr(start, "bank", None)
    if isinstance(bank, FieldBank):  # a result of a run
        known = frame is not None and frame.low and frame.high
        return bank, Places.of_frame(frame.low, frame.high, frame.unit) if frame is not None and known else None
    if not isinstance(start, str | os.PathLike):
        return start, None
    meta, saved = load_meta(start), load_bank(start)
    try:
        if "fit" in meta:
            places = meta["fit"]["source"].get("places")
            return saved, Places.from_plain(**places) if places else None
        frame = meta.get("frame") or {}
        bounds = frame.get("low") and frame.get("high")
        return saved, Places.of_frame(frame["low"], frame["high"], frame.get("unit", "")) if bounds else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"start: {start} must name the coordinates it was learned in, but: {error!r:.100}") from None


def folder_start(
    files: SignalFiles, start: object, spec: FieldSpec | None = None, seed: int = 0
) -> tuple[FieldSpec, Start, Places | None]:
    """Return the architecture, the initialization and the coordinates of the signals of a folder.

    Raises InputError if the start is of another kind of signals.
    """
    begun, places = resolved_start(start)
    spec = spec or getattr(begun, "spec", None) or default_spec(files)
    dims = (len(files.axes), files.channels)
    if (spec.in_dim, spec.out_dim) != dims:
        what = "start" if begun is not None else "spec"
        raise InputError(
            f"{what} must have {dims[0]} coordinates and {dims[1]} values for {files.kind} signals, "
            f"got {spec.in_dim} and {spec.out_dim}"
        )
    return spec, Start(spec, begun, seed), places


def default_spec(
    files: SignalFiles, width: int = WIDTH, hidden_layers: int = HIDDEN_LAYERS, w0: float = W0
) -> FieldSpec:
    """Return the architecture for the signals of a folder: a SIREN."""
    return FieldSpec(len(files.axes), files.channels, width, hidden_layers, activation="sine", w0=w0)
