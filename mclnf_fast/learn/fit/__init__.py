"""Fit many signals, each by a field of its own, in chunks that fit in memory."""

from mclnf_fast.learn.fit.options import FitOptions
from mclnf_fast.learn.fit.run import fit_bank, fit_source
from mclnf_fast.learn.fit.source import IteratorSource, Samples, SampleSource, Skipped, TensorSource, source_of
from mclnf_fast.learn.fit.start import Start
from mclnf_fast.learn.fit.summary import FitProgress, FitSummary

__all__ = [
    "FitOptions",
    "FitProgress",
    "FitSummary",
    "IteratorSource",
    "SampleSource",
    "Samples",
    "Skipped",
    "Start",
    "TensorSource",
    "fit_bank",
    "fit_source",
    "source_of",
]
