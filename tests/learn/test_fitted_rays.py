"""Many steps on rays in one call: the bits of the steps one by one, and what is not made so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from curves import CONFIG, assert_same_state
from test_fitted import ALL, in_calls, one_by_one
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import FineTune, Method, Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch, join, listed
from mclnf_fast.render import Cameras, Cells, RenderSettings
from mclnf_fast.render.cameras import look_at
from mclnf_fast.spec import FieldSpec, Frequency, HashGrid
from mclnf_fast.tasks.rays import PosedImages

SPEC = FieldSpec(3, 4, 8, 2, encoding=Frequency(2))
CELLS = Cells(torch.tensor([[[-1.0, -2.0, -1.0], [3.0, 1.0, 1.0]]]))
FITTED = sorted(set(ALL) - {"mim_weight"})


@pytest.fixture(autouse=True)
def _compiled(need: Callable[..., str]) -> None:
    need("bank_ray_fit", "cpu")


def posed(k: int, spec: FieldSpec = SPEC, masked: bool = False, cls: type[PosedImages] = PosedImages) -> PosedImages:
    """Pictures of 9 x 10 pixels, whose tiles at two borders are smaller; some of the rays miss the cell."""
    generator = torch.Generator().manual_seed(k)
    places = 4 * torch.nn.functional.normalize(torch.randn(3, 3, generator=generator), dim=1)
    cameras = Cameras(look_at(places, torch.zeros(3, 3)), 6.0, 6.0, 5.0, 4.5, 10, 9)
    images = torch.randint(256, (3, 9, 10, 3), dtype=torch.uint8, generator=generator)
    settings = RenderSettings(7, near=3.0, far=4.5)  # both end rays within the cell
    shading = dataclasses.replace(settings.shading, view_directions=spec.in_dim == 6)
    settings = dataclasses.replace(settings, shading=shading)
    unmasked = torch.rand(images.shape[:3], generator=generator) < 0.7 if masked else None
    return cls(f"block {k}", (images, cameras), (images, cameras), CELLS, spec, settings, 4, (unmasked, None))


def made(cls: type[Method], spec: FieldSpec = SPEC, masked: bool = False, draws: str = "even") -> Method:
    tasks = [posed(k, spec, masked) for k in range(2)]
    fim = FimConfig(use="sample", refresh=4, draws=draws)  # type: ignore[arg-type]
    init = initial_parameters(spec, 1, generator=torch.Generator().manual_seed(1))
    config = dataclasses.replace(CONFIG, fim=fim, lr=5e-3)
    return cls([join(tasks)] if cls.joint else tasks, init, config, seed=3)


@pytest.mark.parametrize("name", ALL)
def test_the_bits_of_the_steps_one_by_one(name: str) -> None:
    expected = one_by_one(made(ALL[name]))
    for most in (1, 5, 1000):
        method, counts = in_calls(made(ALL[name]), most)
        assert_same_state(method, expected)
        assert (max(counts) > 1) == (name in FITTED and most > 1)


@pytest.mark.parametrize("draws", ["even", "independent"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["mod", "mod_even", "mim"])
def test_the_bits_with_masks_and_view_directions(name: str, masked: bool, draws: str) -> None:
    views = dataclasses.replace(SPEC, in_dim=6)
    expected = one_by_one(made(ALL[name], views, masked, draws))
    method, counts = in_calls(made(ALL[name], views, masked, draws), 1000)
    assert_same_state(method, expected)
    assert max(counts) > 1


class Absolute(PosedImages):
    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        return super().loss(params, batch, weights, seed).sqrt()


class Centered(PosedImages):
    def draw(self, count: int, generator: torch.Generator, modules: Tensor | None = None) -> Batch:
        return self.take(torch.randint(30, 60, (1, count), generator=generator))


@pytest.mark.parametrize("cls", [Absolute, Centered])
def test_a_task_with_draws_or_a_loss_of_its_own_keeps_them(cls: type[PosedImages]) -> None:
    def method() -> Method:
        given = made(FineTune)
        given.tasks = [posed(k, cls=cls) for k in range(2)]
        return given

    assert listed(method().tasks[0]) is None
    stepped, counts = in_calls(method(), 9)
    assert set(counts) == {1}
    assert_same_state(stepped, one_by_one(method()))


def test_what_a_fit_has_not_is_made_step_by_step() -> None:
    """Learned grids, and a color for the rays that miss the cell."""
    assert listed(posed(0)) is not None
    grid = dataclasses.replace(SPEC, encoding=HashGrid(levels=2, features=2, log2_size=8, base=4, finest=8))
    assert listed(posed(0, grid)) is None
    task = posed(0)
    sky = dataclasses.replace(task.settings.shading, missed=(0.2, 0.4, 0.9))
    task.settings = dataclasses.replace(task.settings, shading=sky)
    assert listed(task) is None
    method = made(Mod)
    method.tasks = [task, task]
    assert set(in_calls(method, 9)[1]) == {1}
