"""The pictures that a single-view run keeps for its report: views of some test objects, and a turn around one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.readers.objects_read import shrink
from mclnf_fast.learn.params import Params
from mclnf_fast.render import RenderSettings
from mclnf_fast.render.objects import ObjectPool, on_white
from mclnf_fast.render.orbit import nearest, orbit
from mclnf_fast.render.volume import render_pixels
from mclnf_fast.report.record import Orbit
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.single_view.views import Split
from mclnf_fast.systems.starts.ray_field import RayField, as_bytes

OBJECTS, VIEWS = 3, 25  # test objects in the pictures, and at most so many views of each
SIDE = 160  # pixels of the longer side of the orbit, at most: its GIF is embedded in the page


class Show:
    """Pictures of the test objects.

    Args:
        objects: those to test on, as their splits order their views.
        splits: of each.
        pool: their rays.
        spec: of their networks.
        settings: how rays are sampled and shaded.
        frames: of the orbit; 0: none.
    """

    def __init__(
        self,
        objects: Sequence[ObjectViews],
        splits: Sequence[Split],
        pool: ObjectPool,
        spec: FieldSpec,
        settings: RenderSettings,
        frames: int,
    ) -> None:
        self.count = min(OBJECTS, len(objects))
        shown = [split.shown(VIEWS) for split in splits[: self.count]]
        # A column of the sheet is one view of every object: the object with the fewest sets their number.
        least = min(map(len, shown))
        self.views = [views[:least] for views in shown]
        self.pool, self.spec, self.settings = pool, spec, settings
        self.first = objects[0]
        self.orbit = None
        if frames:
            around = orbit(self.first.cameras, frames)
            # Reduced only: enlarged views would cost more rays and bytes, and show no more.
            self.orbit = around.scaled(min(1.0, SIDE / max(around.width, around.height)))

    def pictures(self, params: Params | None) -> Tensor:
        """Return uint8 [objects, views, H, W, 3] of the shown objects as modules have them; None: as they are."""
        columns = []
        for k in range(len(self.views[0])):
            ids = [self.pool.view_ids(torch.tensor([o]), views[k]) for o, views in enumerate(self.views)]
            batch = self.pool.batch(torch.cat(ids))
            if params is None:
                pixels = batch.colors
            else:
                modules = tuple(p[: self.count] for p in params)
                pixels = render_pixels(modules, self.spec, batch.origins, batch.directions, self.settings)
            columns.append(as_bytes(pixels))
        return torch.stack(columns, 1).unflatten(2, (self.pool.height, self.pool.width))

    def turn(self, params: Params) -> Tensor:
        """Return uint8 [frames, h, w, 3], the orbit around the first object as its module has it."""
        assert self.orbit is not None
        return RayField(tuple(p[:1] for p in params), self.spec, self.settings).render(self.orbit)[0]

    def true_turn(self) -> Tensor:
        """Return the same as the object is; if it cannot be rendered, its own view nearest to each frame."""
        assert self.orbit is not None
        if self.first.render is not None:
            rgba = self.first.render(self.orbit)
        else:
            near = nearest(self.first.cameras, self.orbit)
            side = max(self.orbit.width, self.orbit.height)
            rgba = torch.stack([torch.from_numpy(shrink(self.first.images[k].numpy(), side)) for k in near.tolist()])
        return as_bytes(on_white(rgba))

    def about(self) -> Orbit | None:
        """Return the record of the orbit; None without one."""
        if self.orbit is None:
            return None
        return Orbit(self.first.name, len(self.orbit), self.first.render is not None)
