"""The loop of a fit over the chunks of a source."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import check_number, check_positive_int
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank, load_bank
from mclnf_fast.fields.functional import check_field_spec
from mclnf_fast.fields.io import tensor_bytes
from mclnf_fast.learn.fit.chunk import Chunk, FitPlan
from mclnf_fast.learn.fit.options import FitOptions
from mclnf_fast.learn.fit.source import Samples, SampleSource, Skipped
from mclnf_fast.learn.fit.start import Start
from mclnf_fast.learn.fit.store import FileStore, MemoryStore
from mclnf_fast.learn.fit.summary import FitProgress, FitSummary
from mclnf_fast.spec import to_dict

CHUNK_BYTES = 256 << 20
CHUNK_PER_THREAD = 64
Show = Callable[[FitProgress], object]


def fit_bank(
    source: SampleSource,
    start: Start,
    steps: int = 2000,
    target_psnr: float | None = None,
    options: FitOptions | None = None,
    progress: Show | None = None,
) -> tuple[FieldBank, FitSummary]:
    """Fit a field to every signal of a source and return the bank and what came of it, as `mclnf_fast.fit`.

    >>> from mclnf_fast.learn.fit import TensorSource
    >>> spec = FieldSpec(1, 1, width=8, hidden_layers=1)
    >>> source = TensorSource(spec, torch.rand(20, 1), torch.rand(3, 20, 1))
    >>> bank, summary = fit_bank(source, Start(spec), steps=5)
    >>> len(bank), summary.steps.tolist()
    (3, [5, 5, 5])
    """
    options = options or FitOptions()
    store, summary = _fitted(source, start, steps, target_psnr, options, progress)
    return (store.bank() if isinstance(store, MemoryStore) else load_bank(store.file)), summary


def fit_source(
    source: SampleSource,
    start: Start,
    steps: int,
    target_psnr: float | None,
    options: FitOptions,
    progress: Show | None = None,
) -> FitSummary:
    """Fit a field to every signal of a source into `options.file`, which need not fit in memory."""
    if options.file is None:
        raise ValueError("options.file must be the file of the bank, got None")
    return _fitted(source, start, steps, target_psnr, options, progress)[1]


def _fitted(
    source: SampleSource,
    start: Start,
    steps: int,
    target_psnr: float | None,
    options: FitOptions,
    progress: Show | None,
) -> tuple[MemoryStore | FileStore, FitSummary]:
    check_field_spec(start.spec)
    check_positive_int(steps, "steps")
    if target_psnr is not None:
        target_psnr = check_number("target_psnr", target_psnr)
    start.check_total(source.total)
    plan = FitPlan(start.spec, steps, options.stop_loss(target_psnr), options.rule_for(start.spec, steps), options)
    work = _Work(source, start, plan, options.described(start.spec, steps, target_psnr), progress or (lambda _: None))
    return work.run()


class _Work:
    """A fit at work."""

    def __init__(
        self, source: SampleSource, start: Start, plan: FitPlan, described: Mapping[str, Any], show: Show
    ) -> None:
        self.source, self.start, self.plan, self.show = source, start, plan, show
        options = plan.options
        self.store: MemoryStore | FileStore
        if options.file is None:
            self.store = MemoryStore(plan.spec, start.shared(start.params[0]))
        else:
            described = {"spec": to_dict(plan.spec), "start": start.digest(), **described, "source": source.about}
            self.store = FileStore(options.file, plan.spec, start.shared(start.params[0]), described, options.resume)

    def run(self) -> tuple[MemoryStore | FileStore, FitSummary]:
        store = self.store
        if not (isinstance(store, FileStore) and store.finished):
            skipped = sum(len(summary.skipped) for summary in store.summaries)
            self._fit_all(self.source.read(sum(map(len, store.summaries)) + skipped))
        summary = FitSummary.joined(store.summaries)
        if not len(summary):
            reason = f": {summary.skipped[0].reason}" if summary.skipped else ""
            raise InputError(f"x must have at least one usable signal, got none{reason}")
        if isinstance(store, FileStore):
            store.finish(summary)
        return store, summary

    def _fit_all(self, signals: Iterator[Samples | Skipped]) -> None:
        store = self.store
        state = store.state() if isinstance(store, FileStore) else None
        left: list[Samples] = []  # read, but more than a chunk's memory
        while True:
            chosen, skipped = self._take(signals, left, None if state is None else int(state[1]["count"]))
            if not chosen and not skipped:
                return
            if not chosen:
                store.add((), FitSummary.joined([FitSummary([], [], *_none(self.plan), skipped=skipped)]))
                continue
            first = sum(map(len, store.summaries))
            params = self.start.modules(first, len(chosen), chosen[0].x)
            chunk = Chunk(self.plan, first, chosen, params)
            if state is not None and isinstance(store, FileStore):
                self._take_over(chunk, state, store)
                state = None
            self._fit(chunk)
            params, summary = chunk.finish()
            summary.skipped = skipped
            store.add(params, summary)
            self._report(None)

    def _take(
        self, signals: Iterator[Samples | Skipped], left: list[Samples], count: int | None
    ) -> tuple[list[Samples], list[Skipped]]:
        """Return the signals of the next chunk: as many as fit, or exactly `count` as in the one that was stopped."""
        most = self.plan.options.chunk or CHUNK_PER_THREAD * torch.get_num_threads()
        chosen, skipped, size = left[:], [], sum(_bytes(s, None) for s in left)
        left.clear()
        while len(chosen) < (most if count is None else count):
            signal = next(signals, None)
            if signal is None:
                break
            if isinstance(signal, Skipped):
                skipped.append(signal)
                continue
            size += _bytes(signal, chosen[-1] if chosen else None)
            if chosen and count is None and size > CHUNK_BYTES:
                left.append(signal)
                break
            chosen.append(signal)
        return chosen, skipped

    def _fit(self, chunk: Chunk) -> None:
        store, saved = self.store, time.monotonic()
        try:
            while not chunk.done:
                chunk.advance()
                self._report(chunk)
                if isinstance(store, FileStore) and time.monotonic() - saved >= self.plan.options.save_every:
                    self._save(chunk, store)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if isinstance(store, FileStore):
                self._save(chunk, store)
            raise

    def _save(self, chunk: Chunk, store: FileStore) -> None:
        store.save_state(chunk.tensors(), {"count": len(chunk), "samples": _digest(chunk.samples)})

    def _take_over(self, chunk: Chunk, state: tuple[dict[str, Tensor], dict[str, Any]], store: FileStore) -> None:
        tensors, meta = state
        if meta.get("samples") != _digest(chunk.samples):
            first = sum(map(len, store.summaries))
            raise InputError(
                f"resume: the samples of modules {first} ... {first + len(chunk) - 1} must be those that the fit began "
                "with, but have changed"
            )
        try:
            chunk.load(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(f"resume: {store.folder} must hold the state of this fit, but: {error!r:.300}") from None

    def _report(self, chunk: Chunk | None) -> None:
        summaries = self.store.summaries
        fields = sum(map(len, summaries)) + (0.0 if chunk is None else chunk.share * len(chunk))
        known = torch.cat([torch.zeros(0, dtype=torch.float64), *(summary.psnr for summary in summaries)])
        known = known[known.isfinite()]
        psnr = float(known.mean()) if len(known) else math.nan
        seconds = sum(summary.seconds for summary in summaries) + (0.0 if chunk is None else chunk.seconds)
        skipped = sum(len(summary.skipped) for summary in summaries)
        self.show(FitProgress(fields, self.source.total, skipped, psnr, seconds))


def _none(plan: FitPlan) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], Tensor]:
    ints = torch.zeros(0, dtype=torch.int64)
    return torch.zeros(0, dtype=torch.float64), ints, ints, plan.losses_at, torch.zeros(len(plan.losses_at), 0)


def _bytes(samples: Samples, before: Samples | None) -> int:
    own = samples.y.nbytes
    return own if before is not None and before.x is samples.x else own + samples.x.nbytes


def _digest(samples: Sequence[Samples]) -> str:
    digest, before = hashlib.sha256(), None
    for one in samples:
        digest.update(one.name.encode("utf-8", "surrogateescape"))
        for tensor in (one.y,) if one.x is before else one[:2]:
            digest.update(tensor_bytes(tensor))
        before = one.x
    return digest.hexdigest()
