"""Read or make what the city job learns from: a procedural city, or a folder of posed images cut into blocks."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import torch

from mclnf_fast.data import Block, CityPaths, ImageSet, Scene, load_scene, write_city
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import Params
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.city.cover import Cover, cover, left_out
from mclnf_fast.systems.city.episodes import hull_cell
from mclnf_fast.systems.city.options import CityConfig, CityDataOptions
from mclnf_fast.tasks.rays import PosedImages

SSIM_SIDE = 11  # pixels: of its window


def random_initialization(spec: FieldSpec, seed: int, device: torch.device | str = "cpu") -> Params:
    """Return random parameters [1, ...] on `device`, the same for the same seed."""
    return initial_parameters(spec, 1, device=device, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class CityData:
    """Tasks in the order in which they are met, districts of blocks to meta-learn on, views across all blocks.

    Tasks and cells are on the run's device, blocks and views on the CPU. `settings`: of the tasks; `unit`: what 1.0 of
    the coordinates is, "" if the data do not say; `origin`: what was taken off the data's coordinates, see `Scene`.
    """

    title: str
    blocks: tuple[Block, ...]
    tasks: list[PosedImages]
    cells: Cells
    districts: tuple[tuple[Block, ...], ...]
    across: ImageSet | None
    notes: list[str]
    settings: RenderSettings
    cover: Cover
    unit: str
    origin: tuple[float, float, float]

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
        (block.train.unmasked, block.test.unmasked),
    )


def _generated(
    config: CityConfig, advance: Callable[[int], object]
) -> tuple[CityPaths | None, tuple[tuple[Block, ...], ...]]:
    """Return the procedural city, None if a folder is learned, and the districts to meta-learn on."""

    def write(styles: int | None = None) -> CityPaths:
        rendered = 0

        def progress(done: int, total: int) -> None:
            nonlocal rendered
            advance(done - rendered)
            rendered = done

        # Cached between runs; rendering it takes longer than reading it.
        if styles is None:
            return write_city(quick=config.run.quick, seed=config.seed, progress=progress)
        # Without a target: districts of several styles are a city of their own, to be learned on alone.
        return write_city(
            quick=config.run.quick,
            seed=config.seed,
            progress=progress,
            styles=styles,
            meta_districts=styles,
            train=0,
            test=0,
            city=0,
        )

    options = config.data
    target = write() if options.path is None else None
    if not config.initializations:
        return target, ()
    if options.styles is None:
        meta = write() if target is None else target
    else:
        meta = write(options.styles)
    return target, tuple(tuple(load_scene(path).blocks) for path in meta.meta)


def _read(path: pathlib.Path, options: CityDataOptions) -> Scene:
    """Read the scene of a folder. Raise InputError if it is unusable, or none of its blocks is."""
    aabb = None if options.box is None else torch.tensor(options.box, dtype=torch.float64).reshape(2, 3)
    scene = load_scene(path, blocks=options.blocks, max_side=options.max_side, aabb=aabb)
    _usable(scene)
    return scene


def _usable(scene: Scene) -> tuple[tuple[Block, ...], list[str]]:
    """Return the blocks that can be learned, and why the others can't. Raise InputError if there is none."""
    unusable = {block.name: text for block in scene.blocks if (text := left_out(block))}
    blocks = tuple(block for block in scene.blocks if block.name not in unusable)
    if not blocks:
        raise InputError(f"data: must have a block with views to train and to test on; {'; '.join(unusable.values())}")
    return blocks, [f"{text}." for text in unusable.values()]


def _masked(blocks: Sequence[Block]) -> list[str]:
    """Return a sentence on the masks of blocks; none without them."""
    every = [views.unmasked for block in blocks for views in (block.train, block.test)]
    masks = [mask for mask in every if mask is not None]
    if not masks:
        return []
    pixels, masked = sum(mask.numel() for mask in masks), sum(int((~mask).sum()) for mask in masks)
    return [f"Masks are obeyed: {masked / pixels:.1%} of the pixels carry no loss and are not scored."]


def load(config: CityConfig, advance: Callable[[int], object]) -> CityData:
    """Read or make the data. Raise InputError if a folder is unusable.

    A block without a view to train or to test on is left out, and the notes say so.

    advance: called with the number of pictures of the procedural city that were rendered since the last call.
    """
    notes: list[str] = []
    options = config.data
    # Looked at before districts are rendered, which takes minutes: a wrong path must not cost them.
    given = None if options.path is None else _read(options.path, options)
    procedural, districts = _generated(config, advance)
    across = None
    if given is None:
        assert procedural is not None
        scene = load_scene(procedural.target)
        # Views that cross all blocks are no block of their own: nobody learns from them.
        across = load_scene(procedural.target, blocks=["city"]).blocks[0].test
        title = "a procedural city, block by block"
        notes.append("The city is procedural: rendered by an exact ray caster, read through the MatrixCity reader.")
    else:
        scene = given
        title = f"{scene.name}, block by block"
        notes += scene.notes
    if districts and (options.path is not None or options.styles is not None):
        style = "one style" if options.styles in (None, 1) else f"{options.styles} styles"
        notes.append(f"Initializations were meta-learned on other, procedural districts of {style}.")
    # Found now and not in the middle of the run, where the block would be learned in vain.
    blocks, reasons = _usable(scene)
    notes += reasons
    field = config.field
    cells = Cells(torch.stack([block.aabb for block in blocks]), field.margin).to(config.run.device)

    def tasks_with(settings: RenderSettings) -> list[PosedImages]:
        own = [Cells(box[None], field.margin) for box in cells.boxes]
        return [_task(block, cell, field.spec, settings, config.tile) for block, cell in zip(blocks, own)]

    tasks = tasks_with(config.settings)
    covered = cover(tasks)
    settings = covered.settings(config.settings)
    unit = "" if scene.unit == "scene" else scene.unit
    if settings != config.settings:
        tasks = tasks_with(settings)
    notes += covered.warnings + _masked(blocks)
    if min(blocks[0].test.images.shape[1:3]) < SSIM_SIDE:
        notes.append(f"SSIM is left out: its window needs pictures of at least {SSIM_SIDE} x {SSIM_SIDE} pixels.")
    return CityData(title, blocks, tasks, cells, districts, across, notes, settings, covered, unit, scene.origin)
