"""The signals of a folder as the samples of a fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from mclnf_fast.data import SignalFiles
from mclnf_fast.data.readers.decoding.extras import MissingExtraError
from mclnf_fast.data.readers.whole import FileValues
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fit import Samples, Skipped
from mclnf_fast.systems.fit.places import Places

_log = logging.getLogger("mclnf_fast")
THREADS = 4
AHEAD = 16  # files that are decoded at a time


class FolderSource:
    """Reads the files of a folder as they are needed; a corrupt one is left out with a warning, or refused.

    Args:
        files: of the folder.
        places: the coordinates of their samples; None: those of their kind.
        strict: refuse an unusable file.
    """

    def __init__(self, files: SignalFiles, places: Places | None = None, strict: bool = False) -> None:
        self.files, self.strict = files, strict
        self.places = places or Places.of(files.kind, files.options.seconds)
        self.total: int | None = len(files)
        self.about: Mapping[str, object] = {**files.described(), "places": self.places.described()}

    def read(self, begin: int) -> Iterator[Samples | Skipped]:
        with ThreadPoolExecutor(min(THREADS, torch.get_num_threads())) as pool:
            for first in range(begin, len(self.files), AHEAD):
                for index, signal in enumerate(pool.map(self._decoded, range(first, first + AHEAD)), start=first):
                    if signal is not None:
                        yield self._samples(self.files.files[index].name, signal)

    def _decoded(self, index: int) -> FileValues | InputError | None:
        if index >= len(self.files):
            return None
        try:
            return self.files.read(index)
        except MissingExtraError:  # no fault of the file: every other one would be left out too
            raise
        except InputError as error:
            if self.strict:
                raise
            return error

    def _samples(self, name: str, signal: FileValues | InputError) -> Samples | Skipped:
        if isinstance(signal, InputError):
            _log.warning("skipped %s", signal)
            return Skipped(name, str(signal))
        *grid, channels = signal.values.shape
        # Here and not in the threads, of which two might make the same coordinates: one tensor for all is meant.
        x = self.places.grid(tuple(grid))
        about: dict[str, object] = {"size": grid}
        if signal.rate is not None:
            about["rate"] = signal.rate
        if signal.changes:
            about["changes"] = signal.changes
        return Samples(x, signal.values.reshape(-1, channels), name, about)
