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
from mclnf_fast.systems.starts.ray_field import RayField

OBJECTS, VIEWS = 3, 25  # test objects in the pictures, and at most so many views of each
SIDE = 160  # pixels of the turn's longer side, at most


class Show:
    """What is drawn of the test objects.

    Args:
        objects: those to test on, as their splits order their views.
        splits: of each.
        pool: their rays.
        spec: of their networks.
        settings: how rays are cut.
        frames: of the turn; 0: none.
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
        least = min(map(len, shown))
        self.views = [views[:least] for views in shown]
        self.pool, self.spec, self.settings = pool, spec, settings
        self.views_of_turn = objects[0]
        self.orbit = None
        if frames:
            around = orbit(self.views_of_turn.cameras, frames)
            self.orbit = around.scaled(min(1.0, SIDE / max(around.width, around.height)))

    def pictures(self, params: Params | None) -> Tensor:
        """uint8 [objects, views, H, W, 3] of the shown objects as `params` have them; None: as they are."""
        made = []
        for k in range(len(self.views[0])):
            ids = [self.pool.view_ids(torch.tensor([o]), views[k]) for o, views in enumerate(self.views)]
            batch = self.pool.batch(torch.cat(ids))
            if params is None:
                pixels = batch.colors
            else:
                some = tuple(p[: self.count] for p in params)
                pixels = render_pixels(some, self.spec, batch.origins, batch.directions, self.settings)
            made.append((pixels * 255).round().to(torch.uint8).cpu())
        return torch.stack(made, 1).unflatten(2, (self.pool.height, self.pool.width))

    def turn(self, params: Params) -> Tensor:
        """uint8 [frames, h, w, 3]: the turn around the first object as `params` have it."""
        assert self.orbit is not None
        return RayField(tuple(p[:1] for p in params), self.spec, self.settings).render(self.orbit)[0]

    def true_turn(self) -> Tensor:
        """The same as the object is; where that can't be rendered, its own view nearest to each frame."""
        assert self.orbit is not None
        if self.views_of_turn.render is not None:
            rgba = self.views_of_turn.render(self.orbit)
        else:
            near = nearest(self.views_of_turn.cameras, self.orbit)
            side = max(self.orbit.width, self.orbit.height)
            rgba = torch.stack(
                [torch.from_numpy(shrink(self.views_of_turn.images[k].numpy(), side)) for k in near.tolist()]
            )
        return (on_white(rgba) * 255).round().to(torch.uint8)

    def about(self) -> Orbit | None:
        """Return what the report must know of the turn; None without one."""
        if self.orbit is None:
            return None
        return Orbit(self.views_of_turn.name, len(self.orbit), self.views_of_turn.render is not None)
