"""What the city job learns from: a procedural city, or a folder of posed images cut into blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from mclnf_fast.data import Block, ImageSet, load_scene, write_city
from mclnf_fast.errors import InputError
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.city.wide_start import hull_cell
from mclnf_fast.tasks.rays import PosedImages


@dataclasses.dataclass(frozen=True)
class CityData:
    """Tasks in the order in which they are met, districts of blocks to learn the starts on, views across all blocks.
    Tasks and cells are on the run's device, blocks and views on the CPU."""

    title: str
    blocks: tuple[Block, ...]
    tasks: list[PosedImages]
    cells: Cells
    districts: tuple[tuple[Block, ...], ...]
    across: ImageSet | None
    notes: list[str]

    def tasks_of_one_network(self, spec: FieldSpec, settings: RenderSettings) -> list[PosedImages]:
        """The same tasks for one network that lives in the hull of all cells."""
        one = hull_cell(self.cells)
        return [_task(block, one, spec, settings, task.pool.tile) for block, task in zip(self.blocks, self.tasks)]


def _task(block: Block, cell: Cells, spec: FieldSpec, settings: RenderSettings, tile: int) -> PosedImages:
    device = cell.boxes.device
    return PosedImages(
        block.name,
        (block.train.images.to(device), block.train.cameras.to(device)),
        (block.test.images.to(device), block.test.cameras.to(device)),
        cell,
        spec,
        settings,
        tile,
    )


def load(config: CityConfig, spec: FieldSpec, settings: RenderSettings, advance: Callable[[int], object]) -> CityData:
    """Reads or makes the data. Raises InputError where it is unusable."""
    notes: list[str] = []
    needs_meta = bool(config.starts)
    made = None
    if config.data is None or needs_meta:
        last = 0

        def progress(done: int, total: int) -> None:
            nonlocal last
            advance(done - last)
            last = done

        made = write_city(quick=config.quick, seed=config.seed, progress=progress)
    districts = tuple(tuple(load_scene(path).blocks) for path in made.meta) if made and needs_meta else ()
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
            notes.append("What is meta-learned was learned on procedural districts, not on this scene.")
    for block in scene.blocks:
        for kind, images in (("training", block.train), ("held-out", block.test)):
            if len(images) == 0:
                raise InputError(f"block {block.name}: must have at least one {kind} view, got none")
    cells = Cells(torch.stack([block.aabb for block in scene.blocks]), config.margin).to(config.device)
    tasks = [
        _task(block, Cells(cells.boxes[k : k + 1], config.margin), spec, settings, config.tile)
        for k, block in enumerate(scene.blocks)
    ]
    return CityData(title, scene.blocks, tasks, cells, districts, across, notes)
