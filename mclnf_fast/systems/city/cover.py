"""Report what the cell of each block covers: how many of its rays miss it, and what a picture of one color would reach.

A ray that misses its cell has no sample, so no step changes what it shows: one color for all such rays, the mean of
those in the training pictures. If they are many, the box of the scene is too small (or in another place), and the run
says so.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mclnf_fast.data import Block
from mclnf_fast.metrics import EIGHT_BITS, mse_to_psnr
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.report.record import BlockFacts
from mclnf_fast.tasks.rays import PosedImages

_log = logging.getLogger("mclnf_fast")
MANY = 0.1  # share of a block's training rays that miss its cell, from which on the run warns


@dataclasses.dataclass(frozen=True)
class Cover:
    """What the cells of all blocks cover.

    Attributes:
        facts: of each block.
        missed: mean color of the training rays that miss their cell; None if none does.
        warnings: a sentence if many do.
    """

    facts: dict[str, BlockFacts]
    missed: tuple[float, float, float] | None
    warnings: list[str]

    def settings(self, settings: RenderSettings) -> RenderSettings:
        """Return settings under which a ray that misses its cell has the color of those in the training pictures."""
        if self.missed is None:
            return settings
        return dataclasses.replace(settings, shading=dataclasses.replace(settings.shading, missed=self.missed))


@torch.no_grad()
def cover(tasks: Iterable[PosedImages]) -> Cover:
    """Return what the cells of tasks cover; `tasks` have one cell each."""
    facts, total, count = {}, torch.zeros(3, dtype=torch.float64), 0
    for task in tasks:
        pool, outside = task.pool, 0
        for view in range(len(pool.cameras)):  # view by view: all rays of a block at once may take gigabytes
            misses = ~crosses(*pool.cameras.view_rays(view), task.cells)
            if pool.unmasked is not None:
                misses &= pool.unmasked[view].flatten().to(misses.device)
            total += pool.images[view].reshape(-1, 3)[misses].sum(0, dtype=torch.float64).cpu()
            outside += int(misses.sum())
        count += outside
        facts[task.name] = BlockFacts(
            train=len(pool.cameras),
            test=len(task.test_cameras),
            box=tuple(tuple(round(v, 6) for v in corner) for corner in task.cells.boxes[0].tolist()),
            missed=outside / len(pool),
            mean_color=mean_color_psnr(pool.images, task.test_images, (pool.unmasked, task.test_unmasked)),
        )
    if not count:
        return Cover(facts, None, [])
    red, green, blue = (total / (255 * count)).tolist()
    return Cover(facts, (red, green, blue), _warnings(facts))


def crosses(origins: Tensor, directions: Tensor, cell: Cells) -> Tensor:
    """Return whether rays [R, 3] cross the one grown cell in front of their origin, bool [R].

    >>> cell = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
    >>> ahead = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    >>> crosses(torch.tensor([[0.0, 0.0, 3.0]] * 2), ahead, cell).tolist()
    [True, False]
    """
    low, high = cell.grown[0].to(origins)
    ends = torch.stack(((low - origins) / directions, (high - origins) / directions))
    # 0 / 0 for a ray within a face that it runs along: neither end bounds it.
    enters = ends.amin(0).nan_to_num(nan=-torch.inf).amax(-1).clamp(min=0)
    leaves = ends.amax(0).nan_to_num(nan=torch.inf).amin(-1)
    return enters < leaves


def mean_color_psnr(train: Tensor, test: Tensor, unmasked: tuple[Tensor | None, Tensor | None] = (None, None)) -> float:
    """Return the PSNR in dB of the mean color of `train` on the pictures `test` (uint8 [V, H, W, 3]), mean over views.

    unmasked: of either, the pixels that are not masked, bool [V, H, W]; None: all.

    >>> black, gray = torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.full((1, 2, 2, 3), 51, dtype=torch.uint8)
    >>> round(mean_color_psnr(black, gray), 2)
    13.98
    """
    means = [view.mean(0) for view in _pixels(train, unmasked[0])]
    color = torch.stack(means).mean(0) / 255
    errors = [(view / 255 - color).square().mean() for view in _pixels(test, unmasked[1])]
    # As `PosedImages` has it of an exact view.
    return float(mse_to_psnr(torch.stack(errors)).clamp(max=EIGHT_BITS).mean())


def _pixels(images: Tensor, unmasked: Tensor | None) -> Iterator[Tensor]:
    """Yield the pixels of each view that are not masked, float64 [P, 3]."""
    for view, picture in enumerate(images):
        kept = picture.reshape(-1, 3) if unmasked is None else picture[unmasked[view].to(picture.device)]
        yield kept.to(torch.float64)


def left_out(block: Block) -> str:
    """Return why a block can't be learned; empty if it can.

    >>> from mclnf_fast.data import ImageSet, turntable
    >>> views = ImageSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), turntable(1, 8), ("a",))
    >>> left_out(Block("block_1", views, views.pick(torch.arange(0)), torch.tensor([[0.0] * 3, [1.0] * 3])))
    'block_1 is left out: it has no view to test on'
    """
    missing = [use for use, views in (("to train on", block.train), ("to test on", block.test)) if len(views) == 0]
    return f"{block.name} is left out: it has no view {' and none '.join(missing)}" if missing else ""


def _warnings(facts: dict[str, BlockFacts]) -> list[str]:
    shares = {name: f.missed for name, f in facts.items() if f.missed is not None and f.missed > MANY}
    if not shares:
        return []
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    text = (
        f"Many training rays miss the box of their block and all show one color, their mean ({listed}): "
        "what they see is not learned. Set the box of the scene with --box."
    )
    _log.warning("%s", text)
    return [text]
