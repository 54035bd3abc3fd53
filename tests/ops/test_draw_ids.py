"""Draws of samples: the published values of Philox, the same ids on every backend, and their distribution."""

from __future__ import annotations

import places
import pytest
import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.ops.draw_ids import philox

backends = places.backends("draw_ids")
compiled = places.backends("draw_ids", reference=False)
rules = pytest.mark.parametrize("rule", ["uniform", "even"])


def draw(backend: str, sizes: list[int], batch: int, steps: list[int] | int, **options) -> Tensor:
    if isinstance(steps, list):
        steps = torch.tensor(steps)
    return ops.draw_ids(torch.tensor(sizes), batch, steps, backend=backend, **options)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_published_values(counter: list[int], key: list[int], words: list[int]) -> None:
    """The known answers that the authors of Philox publish with it."""
    found = philox(tuple(torch.tensor(c) for c in counter), key[0] | key[1] << 32)
    assert [int(word) for word in found] == words


@backends
def test_ids_from_published_words(need, backend: str) -> None:
    """Counter 0 under key 0: the ids are the high words of the products of its words with n."""
    need("draw_ids", backend)
    ids = draw(backend, [1000], 2, 0, seed=0)
    assert ids.tolist() == [[0x6627E8D5E169C58D * 1000 >> 64, 0xBC57AC4C9B00DBD8 * 1000 >> 64]]


@compiled
@rules
def test_as_the_reference(need, backend: str, rule: str) -> None:
    """All sizes of batches and samples, seeds of 64 bits, the largest numbers that a counter holds."""
    need("draw_ids", backend)
    sizes, steps = [1, 2, 16, 63, 1000, 1 << 20, (1 << 32) - 1], [0, 1, 15, 16, 17, 1000, (1 << 32) - 1]
    modules = torch.tensor([0, 1, 2, 3, 70_000, (1 << 32) - 1, 5])
    for batch in (1, 2, 3, 5, 16, 129):
        for seed, task in ((0, 0), (-1, 7), ((1 << 64) - 1, (1 << 24) - 1), (123456789 << 20, 1)):
            options = {"rule": rule, "seed": seed, "task": task, "modules": modules}
            assert torch.equal(
                draw(backend, sizes, batch, steps, **options), draw("reference", sizes, batch, steps, **options)
            )


@backends
@rules
def test_counted_and_not_streamed(need, backend: str, rule: str) -> None:
    """A module's step draws the same alone as beside others; another seed, task, module or step draws otherwise."""
    need("draw_ids", backend)
    together = draw(backend, [500, 500, 500], 64, [3, 4, 5], rule=rule, seed=9)
    alone = draw(backend, [500], 64, [4], rule=rule, seed=9, modules=torch.tensor([1]))
    assert torch.equal(together[1:2], alone)
    for other in ({"seed": 10}, {"task": 1}, {"modules": torch.tensor([2])}, {"steps": [5]}):
        options = {"steps": [4], "seed": 9, "modules": torch.tensor([1]), **other}
        assert not torch.equal(alone, draw(backend, [500], 64, options.pop("steps"), rule=rule, **options))


@backends
def test_even_draws_cover(need, backend: str) -> None:
    """A draw in each part of the samples, and within a window of 16 steps one in each sixteenth of it."""
    need("draw_ids", backend)
    n, batch = 16 * 40 * 3, 40
    ids = torch.cat([draw(backend, [n], batch, step, rule="even", seed=2) for step in range(32, 48)])
    assert torch.equal(ids // (n // batch), torch.arange(batch).expand(16, batch))
    assert torch.equal((ids // 3).flatten().sort().values, torch.arange(16 * batch))


@rules
def test_every_sample_is_as_likely(rule: str) -> None:
    """Over 48,000 draws of 10 samples each count lies within 5 standard deviations of its mean."""
    ids = torch.cat([ops.draw_ids(torch.tensor([10] * 30), 16, step, rule=rule).flatten() for step in range(100)])
    counts = ids.bincount(minlength=10).double()
    assert ids.numel() == 48_000
    assert bool(((counts - 4800).abs() < 5 * (4800 * 0.9) ** 0.5).all()), counts


def test_refuses() -> None:
    sizes = torch.tensor([5])
    for error, match, call in (
        (ValueError, "sizes", lambda: ops.draw_ids(torch.tensor([0]), 1, 0)),
        (ValueError, "sizes", lambda: ops.draw_ids(torch.tensor([1 << 32]), 1, 0)),
        (TypeError, "sizes", lambda: ops.draw_ids(torch.tensor([1.0]), 1, 0)),
        (ValueError, "batch", lambda: ops.draw_ids(sizes, 0, 0)),
        (ValueError, "steps", lambda: ops.draw_ids(sizes, 1, -1)),
        (ValueError, "steps", lambda: ops.draw_ids(sizes, 1, torch.tensor([1 << 32]))),
        (ValueError, "modules", lambda: ops.draw_ids(sizes, 1, 0, modules=torch.tensor([-1]))),
        (ValueError, "modules", lambda: ops.draw_ids(sizes, 1, 0, modules=torch.tensor([1, 2]))),
        (ValueError, "rule", lambda: ops.draw_ids(sizes, 1, 0, rule="odd")),
        (ValueError, "seed", lambda: ops.draw_ids(sizes, 1, 0, seed=1 << 64)),
        (TypeError, "seed", lambda: ops.draw_ids(sizes, 1, 0, seed=1.5)),
        (ValueError, "task", lambda: ops.draw_ids(sizes, 1, 0, task=1 << 24)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_no_module() -> None:
    assert ops.draw_ids(torch.zeros(0, dtype=torch.int64), 3, 0).shape == (0, 3)


@compiled
def test_opcheck(need, backend: str) -> None:
    need("draw_ids", backend)
    numbers = torch.tensor([3, 9])
    torch.library.opcheck(torch.ops.mclnf_fast.draw_ids.default, (numbers, numbers, numbers, 5, 1, 0, 0))
