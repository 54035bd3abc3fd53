"""Read or make what the city job learns from: a procedural city, or a folder of posed images cut into blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from mclnf_fast.data import Block, ImageSet, load_scene, write_city
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import Params
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.episodes import hull_cell
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.tasks.rays import PosedImages


def random_initialization(spec: FieldSpec, seed: int, device: torch.device | str = "cpu") -> Params:
    """Return random parameters [1, ...] on `device`, the same for the same seed."""
    return initial_parameters(spec, 1, device=device, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class CityData:
    """Tasks in the order in which they are met, districts of blocks to meta-learn on, views across all blocks.

    Tasks and cells are on the run's device, blocks and views on the CPU.
    """

    title: str
    blocks: tuple[Block, ...]
    tasks: list[PosedImages]
    cells: Cells
    districts: tuple[tuple[Block, ...], ...]
    across: ImageSet | None
    notes: list[str]

    def tasks_of_one_network(self, spec: FieldSpec, settings: RenderSettings) -> list[PosedImages]:
        """Return the same tasks for one network that lives in the hull of all cells."""
        hull = hull_cell(self.cells)
        return [_task(block, hull, spec, settings, task.pool.tile) for block, task in zip(self.blocks, self.tasks)]


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


def load(config: CityConfig, advance: Callable[[int], object]) -> CityData:
    """Read or make the data. Raise InputError if a folder is unusable.

    advance: called with the number of pictures of the procedural city that were rendered since the last call.
    """
    notes: list[str] = []
    options, meta_learned = config.data, bool(config.initializations)
    procedural = None
    if options.path is None or meta_learned:
        rendered = 0

        def progress(done: int, total: int) -> None:
            nonlocal rendered
            advance(done - rendered)
            rendered = done

        # Cached between runs; rendering it takes longer than reading it.
        procedural = write_city(quick=config.run.quick, seed=config.seed, progress=progress)
    districts: tuple[tuple[Block, ...], ...] = ()
    if procedural is not None and meta_learned:
        districts = tuple(tuple(load_scene(path).blocks) for path in procedural.meta)
    across = None
    if options.path is None:
        assert procedural is not None
        scene = load_scene(procedural.target)
        # Views that cross all blocks are no block of their own: nobody learns from them.
        across = load_scene(procedural.target, blocks=["city"]).blocks[0].test
        title = "a procedural city, block by block"
        notes.append("The city is procedural: rendered by an exact ray caster, read through the MatrixCity reader.")
    else:
        scene = load_scene(options.path, blocks=options.blocks, max_side=options.max_side)
        title = f"{scene.name}, block by block"
        if meta_learned:
            notes.append("Initializations were meta-learned on procedural districts, not on this scene.")
    for block in scene.blocks:
        for kind, images in (("training", block.train), ("held-out", block.test)):
            # Found here and not in the middle of the run, where the block would be learned in vain.
            if len(images) == 0:
                raise InputError(f"block {block.name}: must have at least one {kind} view, got none")
    field = config.field
    cells = Cells(torch.stack([block.aabb for block in scene.blocks]), field.margin).to(config.run.device)
    tasks = [
        _task(block, Cells(cells.boxes[k : k + 1], field.margin), field.spec, config.settings, config.tile)
        for k, block in enumerate(scene.blocks)
    ]
    return CityData(title, scene.blocks, tasks, cells, districts, across, notes)
