"""A memory of fixed size that holds a uniform sample of everything seen (reservoir sampling)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.learn.task import Batch, Task

CHUNK = 1 << 16  # samples offered at once


class Reservoir:
    """Keeps `capacity` samples of each of S signals; after any number of tasks every sample seen so far is in it with
    the same probability (Vitter, "Random sampling with a reservoir", 1985, algorithm R).

    The signals share their draws: which places of the stream are kept is the same for all of them.

    Args:
        capacity: samples per signal.
        seed: of what is kept.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity = check_positive_int(capacity, "capacity")
        self.seen = 0
        self.samples: Batch = ()
        self._generator = torch.Generator().manual_seed(seed)

    def __bool__(self) -> bool:
        return bool(self.samples)

    def __len__(self) -> int:
        """Samples that are kept of each signal."""
        return self.samples[0].shape[1] if self.samples else 0

    def see(self, task: Task) -> None:
        """Offer every sample of a task, once."""
        for begin in range(0, task.samples, CHUNK):
            ids = torch.arange(begin, min(task.samples, begin + CHUNK))
            room = self.capacity - self.seen
            # Sample number i (from 0) takes the place floor(u (i + 1)), if there is such a place.
            place = (
                torch.rand(len(ids), generator=self._generator, dtype=torch.float64) * (self.seen + ids - begin + 1)
            ).long()
            if room > 0:
                place[:room] = torch.arange(self.seen, self.seen + min(room, len(ids)))
            kept = place < self.capacity
            # Of late chunks mostly nothing is kept: their samples are then not even read.
            if bool(kept.any()):
                self._put(task, ids[kept], place[kept])
            self.seen += len(ids)

    def _put(self, task: Task, ids: Tensor, place: Tensor) -> None:
        latest = torch.full((self.capacity,), -1).scatter_reduce(0, place, ids, "amax")  # a later sample wins its place
        places = (latest >= 0).nonzero()[:, 0]
        batch = task.take(latest[places].expand(task.modules, -1))
        if not self.samples:
            # No larger than what is kept: rows of zeros would be drawn as samples.
            size = min(self.capacity, int(places.max()) + 1)
            self.samples = tuple(t.new_zeros(t.shape[0], size, *t.shape[2:]) for t in batch)
        grown = int(places.max()) + 1 - len(self)
        if grown > 0:
            self.samples = tuple(torch.cat([t, t.new_zeros(t.shape[0], grown, *t.shape[2:])], 1) for t in self.samples)
        for kept, new in zip(self.samples, batch):
            kept[:, places.to(kept.device)] = new

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return `count` samples per signal, uniform, with replacement. Raise ValueError if nothing was seen yet."""
        if not self:
            raise ValueError("the memory must have seen a task before it is drawn from, got none")
        return self.take(torch.randint(len(self), (self.samples[0].shape[0], count), generator=generator))

    def take(self, ids: Tensor) -> Batch:
        """Return the kept samples of int64 ids [S, k]."""
        ids = ids.to(self.samples[0].device)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        return tuple(t[rows, ids] for t in self.samples)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the samples, how many were seen and the generator, as tensors (copies)."""
        state = {f"samples.{i}": t.clone() for i, t in enumerate(self.samples)}
        return {**state, "seen": torch.tensor(self.seen), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over what `state_dict` returned; the samples go to `device`. Raises KeyError if an entry is missing,
        ValueError if more is kept than there is room for."""
        count = sum(key.startswith("samples.") for key in state)
        samples = tuple(state[f"samples.{i}"].to(device, copy=True) for i in range(count))
        if samples and samples[0].shape[1] > self.capacity:
            raise ValueError(f"state must hold at most {self.capacity} samples, got {samples[0].shape[1]}")
        self._generator.set_state(state["generator"])
        self.samples, self.seen = samples, int(state["seen"])
