"""What the city job learns from: a procedural city, or a folder of posed images cut into blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from mclnf_fast.data import Block, ImageSet, load_scene, write_city
from mclnf_fast.errors import InputError
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.render.posed import PosedImages
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city_config import CityConfig


@dataclasses.dataclass(frozen=True)
class CityData:
    """Tasks in the order in which they are met, blocks to learn the shared start on, views across all blocks. Tasks and
    cells are on the run's device, blocks and views on the CPU."""

    title: str
    blocks: tuple[Block, ...]
    tasks: list[PosedImages]
    cells: Cells
    meta: tuple[Block, ...]
    across: ImageSet | None
    notes: list[str]

    def tasks_of_one_network(self, spec: FieldSpec, settings: RenderSettings) -> list[PosedImages]:
        """The same tasks for one network that lives in the hull of all cells."""
        # The hull of the grown cells, written as a cell that grows to it.
        grown = self.cells.hull()
        middle, half = grown.mean(0), (grown[1] - grown[0]) / 2
        half = half / half.new_tensor([self.cells.margin, self.cells.margin, 1.0])
        one = Cells(torch.stack((middle - half, middle + half))[None], self.cells.margin)
        return [_task(block, one, spec, settings, task.pool.tile) for block, task in zip(self.blocks, self.tasks)]


def _task(block: Block, cell: Cells, spec: FieldSpec, settings: RenderSettings, tile: int) -> PosedImages:
    device = cell.boxes.device
    return PosedImages(
        block.name,
        block.train.images.to(device),
        block.train.cameras.to(device),
        block.test.images.to(device),
        block.test.cameras.to(device),
        cell,
        spec,
        settings,
        tile,
    )


def load(config: CityConfig, spec: FieldSpec, settings: RenderSettings, advance: Callable[[int], object]) -> CityData:
    """Reads or makes the data. Raises InputError where it is unusable."""
    notes: list[str] = []
    needs_meta = config.start == "city" and bool({"mod", "mim"} & set(config.methods))
    made = None
    if config.data is None or needs_meta:
        last = 0

        def progress(done: int, total: int) -> None:
            nonlocal last
            advance(done - last)
            last = done

        made = write_city(quick=config.quick, seed=config.seed, progress=progress)
    meta = tuple(b for path in made.meta for b in load_scene(path).blocks) if made and needs_meta else ()
    across = None
    if config.data is None:
        assert made is not None
        scene = load_scene(made.target)
        across = load_scene(made.target, blocks=["city"]).blocks[0].test
        title = "a procedural city, block by block"
        notes.append("The city is procedural: rendered by an exact ray caster, read through the MatrixCity reader.")
    else:
        scene = load_scene(config.data, blocks=config.blocks, max_side=config.max_side)
        title = f"{scene.name}, block by block"
        if needs_meta:
            notes.append("The shared start was learned on procedural districts, not on this scene.")
    for block in scene.blocks:
        for kind, images in (("training", block.train), ("held-out", block.test)):
            if len(images) == 0:
                raise InputError(f"block {block.name}: must have at least one {kind} view, got none")
    cells = Cells(torch.stack([block.aabb for block in scene.blocks]), config.margin).to(config.device)
    tasks = [
        _task(block, Cells(cells.boxes[k : k + 1], config.margin), spec, settings, config.tile)
        for k, block in enumerate(scene.blocks)
    ]
    return CityData(title, scene.blocks, tasks, cells, meta, across, notes)
