"""The definition of the draws in plain PyTorch: Philox and what becomes of its numbers.

Words of 32 bits are int64 values from 0 to 2^32 - 1. Products wrap around at 64 bits, as unsigned ones do in C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.packing import DrawRule

WORD = 0xFFFFFFFF
MOST = {"module": WORD, "step": WORD, "sample": WORD, "task": (1 << 24) - 1}
"""The largest number of each that a counter holds; of samples the largest count."""

WINDOW = 16  # steps after which even draws have been everywhere
SAMPLES, WINDOWS = 0, 1  # streams of a task's numbers


def philox(counter: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Return four random words per counter of four words, by Philox4x32-10 (Salmon et al., SC 2011) under a key of 64
    bits.

    >>> zero = torch.tensor(0)
    >>> [hex(int(word)) for word in philox((zero,) * 4, seed=0)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    low, high = seed & WORD, seed >> 32 & WORD
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32 & WORD) ^ c1 ^ low, b & WORD, (a >> 32 & WORD) ^ c3 ^ high, a & WORD
        low, high = low + 0x9E3779B9 & WORD, high + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def _words(seed: int, task: int, stream: int, modules: Tensor, times: Tensor, blocks: int) -> Tensor:
    """Return the words of counters 0 ... blocks - 1 of each module, int64 [M, 4 blocks]."""
    shape = (len(modules), blocks)
    block = torch.arange(blocks, device=modules.device).expand(shape)
    own = torch.full(shape, task << 8 | stream, dtype=torch.int64, device=modules.device)
    words = philox((block, times[:, None].expand(shape), modules[:, None].expand(shape), own), seed)
    return torch.stack(words, -1).flatten(1)


def draw_ids(sizes: Tensor, modules: Tensor, steps: Tensor, batch: int, rule: DrawRule, seed: int, task: int) -> Tensor:
    """Return the ids int64 [M, batch] of `mclnf_fast.ops.draw_ids`; sizes, modules and steps int64 [M]."""
    if rule == DrawRule.UNIFORM:
        words = _words(seed, task, SAMPLES, modules, steps, (batch + 1) // 2)
        high, low = words[:, 0::2][:, :batch], words[:, 1::2][:, :batch]
        n = sizes[:, None]
        return high * n + (low * n >> 32 & WORD) >> 32 & WORD
    parts = even_parts(seed, task, modules, steps, batch)
    return torch.minimum((parts * samples_per_part(sizes, batch)).long(), sizes[:, None] - 1)


def samples_per_part(sizes: Tensor, batch: int) -> Tensor:
    """Return the samples of modules of `sizes` int64 [M] in a sixteenth of a stratum, float64 [M, 1]."""
    return sizes.double()[:, None] / (float(WINDOW) * batch)


def even_parts(seed: int, task: int, modules: Tensor, steps: Tensor, batch: int) -> Tensor:
    """Return where even draws lie, in sixteenths of the `batch` strata: float64 [M, batch] in [0, 16 batch).

    >>> parts = even_parts(0, 0, torch.zeros(16, dtype=torch.int64), torch.arange(16), 2)
    >>> (parts[:, 1].sort().values.long() - 16).tolist() == list(range(16))  # a window of steps is everywhere once
    True
    """
    turns = _words(seed, task, WINDOWS, modules, steps // WINDOW, WINDOW // 4)
    own = turns.gather(1, (steps % WINDOW)[:, None])
    before = torch.arange(WINDOW, device=steps.device) < (steps % WINDOW)[:, None]
    place = ((turns < own) | ((turns == own) & before)).sum(1, keepdim=True)
    bits = _words(seed, task, SAMPLES, modules, steps, (batch + 3) // 4)[:, :batch]
    parts = torch.arange(batch, device=steps.device) * WINDOW + place
    return parts.double() + bits.double() * 2.0**-32
