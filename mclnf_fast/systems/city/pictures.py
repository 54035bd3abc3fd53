"""Draw the pictures of a city run: the truth, the modules, and when each was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast import report
from mclnf_fast.learn import FimConfig, FisherScorer
from mclnf_fast.learn.methods import Method
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.protocol import Log, Protocol
from mclnf_fast.metrics import mse_to_psnr, ssim
from mclnf_fast.render import render_scene
from mclnf_fast.render.lenses.views import blanked, drawable
from mclnf_fast.render.volume import Rendered
from mclnf_fast.systems.city.data import SSIM_SIDE, CityData
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.city.results import finished_modules, psnr_curves, stack
from mclnf_fast.systems.common.folder import RunFolder
from mclnf_fast.tasks.rays import PosedImages

ABOVE = 200  # pixels of the longer side of the view from above


def _truth(task: PosedImages, view: int) -> Tensor:
    return task.test_images[view].cpu().to(torch.float32) / 255.0


def _posed(protocol: Protocol, block: int) -> PosedImages:
    task = protocol.tasks[block]
    assert isinstance(task, PosedImages)
    return task


def in_strip(method: type[Method]) -> bool:
    """Return whether a method has a row in the refinement strip: modules, and one network from a meta-learned
    initialization. From a random one all sequential methods are the same on the first block."""
    return method.modular or (method.initialization != "random" and not method.joint)


def best_modules(protocols: Mapping[str, Protocol]) -> str | None:
    """Return the method whose modules are shown and kept: the first that was run of `mim`, `mod`, `mod_random` and all
    others that have modules, those of packages too; None without one."""
    modular = [name for name, protocol in protocols.items() if protocol.modular]
    return next((name for name in ("mim", "mod", "mod_random", *modular) if name in modular), None)


def step_picture(name: str, folder: RunFolder, tasks: Sequence[PosedImages], method: type[Method]) -> Log:
    """Return what saves the first block's first held-out view at every logged step, for the refinement strip."""
    shown = in_strip(method)

    def save(block: int, step: int, params: Params) -> None:
        # One block: each further one would cost a render of every method at every logged step.
        if block == 0 and shown:
            task = tasks[0]
            image = task.render(params, task.test_cameras, 0).cpu()
            report.save_png(folder.images / "steps" / f"{name}_{step}.png", image)

    return save


def _read(path: Any) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0)


def make(
    config: CityConfig, data: CityData, protocols: Mapping[str, Protocol], folder: RunFolder
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Draw everything from the finished modules; return the list of pictures, and SSIM and whole-city PSNR."""
    pictures: list[dict[str, str]] = []

    def listed(name: str, kind: str, caption: str) -> Any:
        pictures.append({"file": f"images/{name}", "kind": kind, "caption": caption})
        return folder.images / name

    _strip(data, protocols, folder, listed)
    ssims: dict[str, list[float]] = {name: [] for name in protocols}
    for k, task in enumerate(data.tasks):
        renders, quality = {}, {}
        for name, protocol in protocols.items():
            posed = _posed(protocol, k)
            params, cameras = protocol.params_of(k), posed.test_cameras
            views = [posed.render(params, cameras, v).cpu() for v in range(len(cameras))]
            truth = task.test_images.cpu().to(torch.float32) / 255.0
            if min(truth.shape[1:3]) >= SSIM_SIDE:
                ssims[name].append(float(ssim(_filled(torch.stack(views), truth, posed.test_unmasked), truth).mean()))
            renders[name] = views[0]
            quality[name] = float(mse_to_psnr(posed.view_error(views[0], 0)))
        caption = f"A held-out view of {task.name} after all blocks: truth, what each method sees, and its error."
        report.triptych(listed(f"{task.name}.png", "triptych", caption), _truth(task, 0), renders, quality)
    best = best_modules(protocols)
    across: dict[str, float] = {}
    if best is not None:
        _fisher(config, data, protocols[best], listed)
        _from_above(config, data, protocols[best], listed)
        if data.across is not None:
            across = _across(config, data, protocols, listed)
    averages = {name: {"ssim_mean": sum(values) / len(values)} for name, values in ssims.items() if values}
    return pictures, {"ssim": averages, "city": across}


def _filled(views: Tensor, truth: Tensor, unmasked: Tensor | None) -> Tensor:
    """Return pictures [V, H, W, 3] with the truth where it is masked: SSIM needs whole windows."""
    return views if unmasked is None else torch.where(unmasked[..., None].cpu(), views, truth)


def _strip(
    data: CityData, protocols: Mapping[str, Protocol], folder: RunFolder, listed: Callable[[str, str, str], Any]
) -> None:
    """Draw the refinement of one view over the steps, a row per method."""
    rows, quality, steps = {}, {}, []
    truth = _truth(data.tasks[0], 0)
    for name, protocol in protocols.items():
        if not in_strip(type(protocol.method)):
            continue
        steps = [s for s in psnr_curves(protocol)[0] if s > 0]
        # From the files: the first steps of a resumed run were drawn by another process.
        rows[name] = [_read(folder.images / "steps" / f"{name}_{s}.png") for s in steps]
        quality[name] = [float(mse_to_psnr(data.tasks[0].view_error(image, 0))) for image in rows[name]]
    if rows:
        caption = f"Refinement of a held-out view of {data.tasks[0].name}, by gradient steps on this block."
        report.strip(listed("refinement.png", "strip", caption), truth, rows, steps, quality)


def _fisher(config: CityConfig, data: CityData, protocol: Protocol, listed: Callable[[str, str, str], Any]) -> None:
    """Draw how much the finished module of a block could still learn from each ray of a training view."""
    task, params = _posed(protocol, 0), protocol.params_of(0)
    pixels = task.pool.height * task.pool.width
    generator = torch.Generator().manual_seed(config.seed)
    batch = task.draw(min(4096, len(task.pool)), generator)
    scorer = FisherScorer(task.spec, 1, FimConfig(source="ema"), task.backend)
    view = task.pool.batch(torch.arange(pixels))
    directions, seen = drawable(task.pool.cameras, 0, view.directions)
    whole = tuple(t[None] for t in view._replace(directions=directions))
    for rays in (batch, whole):  # the first batch is what the second is scored against
        p = task.points(params, rays)
        scores = scorer(params, p.x, p.offsets, p.grad_y, sample_ids=p.sample_ids, num_samples=p.num_samples).scores
    scores = blanked(scores, seen, 0)
    shape, colors = (task.pool.height, task.pool.width), whole[2].cpu()
    caption = f"Fisher score of every ray of a training view of {task.name}: what its module could still learn from it."
    report.fisher_map(listed("fisher.png", "fisher", caption), colors.reshape(*shape, 3), scores.cpu().reshape(shape))


def _from_above(config: CityConfig, data: CityData, protocol: Protocol, listed: Callable[[str, str, str], Any]) -> None:
    """Draw all modules in one picture from straight above, and which of them owns each pixel."""
    cells = data.cells.to("cpu")
    hull = cells.hull()
    size = hull[1, :2] - hull[0, :2]
    wide, high = (max(1, round(float(s / size.max()) * ABOVE)) for s in size)
    x = hull[0, 0] + (torch.arange(wide, dtype=torch.float32) + 0.5) / wide * size[0]
    # From the top: rows of a picture run down, y of the city up, and the map would be mirrored.
    y = hull[1, 1] - (torch.arange(high, dtype=torch.float32) + 0.5) / high * size[1]
    ground = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    origins = torch.cat((ground, torch.full((ground.shape[0], 1), float(hull[1, 2]) + 1e-3, dtype=torch.float32)), 1)
    directions = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float32).expand_as(origins).contiguous()
    out = _all_modules(protocol, config, data, origins, directions)
    owners = cells.strongest(torch.cat((ground, hull.mean(0)[2].expand(ground.shape[0], 1)), 1))
    image = out.color.reshape(high, wide, 3)
    outlines = [
        (
            float((box[0, 0] - hull[0, 0]) / size[0] * wide),
            float((hull[1, 1] - box[1, 1]) / size[1] * high),
            float((box[1, 0] - hull[0, 0]) / size[0] * wide),
            float((hull[1, 1] - box[0, 1]) / size[1] * high),
        )
        for box in cells.boxes
    ]
    names = [t.name for t in data.tasks]
    caption = "The learned city from above through all modules, and which module owns which part of it."
    report.module_map(listed("modules.png", "modules", caption), image, owners.reshape(high, wide), names, outlines)


def _all_modules(
    protocol: Protocol, config: CityConfig, data: CityData, origins: Tensor, directions: Tensor
) -> Rendered:
    params, device = stack(finished_modules(protocol)), data.cells.boxes.device
    out = render_scene(params, config.field.spec, origins.to(device), directions.to(device), data.cells, data.settings)
    return Rendered(*(t.cpu() for t in out))


def _across(
    config: CityConfig,
    data: CityData,
    protocols: Mapping[str, Protocol],
    listed: Callable[[str, str, str], Any],
) -> dict[str, float]:
    """Return the PSNR of views that cross all blocks, over the pixels whose ray meets the ground inside the learned
    region."""
    across = data.across
    assert across is not None
    hull = data.cells.hull().cpu()
    psnr: dict[str, list[float]] = {}
    shown: dict[str, Tensor] = {}
    shape = (across.cameras.height, across.cameras.width, 3)
    for view in range(len(across)):
        origins, directions = across.cameras.view_rays(view)
        truth = across.images[view].reshape(-1, 3).to(torch.float32) / 255.0
        reach = (hull[0, 2] - origins[:, 2]) / directions[:, 2]
        ground = origins + reach[:, None] * directions
        # Pixels beyond the blocks would count what no method has learned; above the horizon `reach` is negative.
        inside = ((ground[:, :2] > hull[0, :2]) & (ground[:, :2] < hull[1, :2])).all(1) & (reach > 0)
        for name, protocol in protocols.items():
            if protocol.modular:
                color = _all_modules(protocol, config, data, origins, directions).color
            else:
                task = _posed(protocol, 0)
                cameras = across.cameras.to(data.cells.boxes.device)
                color = task.render(protocol.params_of(0), cameras, view).cpu().reshape(-1, 3)
            psnr.setdefault(name, []).append(float(mse_to_psnr((color - truth)[inside].square().mean())))
            if view == 0:
                shown[name] = torch.where(inside[:, None], color, color.new_tensor(1.0)).reshape(shape)
        if view == 0:
            shown_truth = torch.where(inside[:, None], truth, truth.new_tensor(1.0)).reshape(shape)
    caption = "The whole district in one view: every ray crosses several modules, blended where their cells overlap."
    quality = {name: values[0] for name, values in psnr.items()}
    report.triptych(listed("city.png", "triptych", caption), shown_truth, shown, quality)
    return {name: sum(values) / len(values) for name, values in psnr.items()}
