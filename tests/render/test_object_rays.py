"""Dense bins against the formulas of the text and of the notebook, written out in float64; and rays of objects."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.render import RenderSettings, ray_losses, render_objects, sample_between
from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.render.objects import ObjectPool, on_white, ray_loss
from mclnf_fast.render.samples import along_axis, sample_distances
from mclnf_fast.render.settings import Convention
from mclnf_fast.render.volume import render_pixels

SPEC = mf.FieldSpec(3, 4, 16, 2, encoding=mf.LogFrequency(20, 8.0))


def network(x: Tensor, params: list[Tensor]) -> Tensor:
    """120 features of float64 points [N, 3], and plain layers: as both code bases have it."""
    features = torch.cat(
        [torch.cat((torch.sin(2 ** (8 * k / 19) * x), torch.cos(2 ** (8 * k / 19) * x)), -1) for k in range(20)], -1
    )
    layers = len(params) // 2
    for k in range(layers):
        features = features @ params[k] + params[layers + k]
        features = features.clamp(min=0) if k + 1 < layers else features
    return features


def written_out(params: list[Tensor], o: Tensor, d: Tensor, u: Tensor, convention: str) -> Tensor:
    """The pixels [R, 3] of rays [R, 3] of one network, noise u [R, B], near 2, far 6; float64, ray by ray."""
    bins = u.shape[1]
    pixels = []
    for ray in range(len(o)):
        edges = [2 + 4 * i / (bins - 1) for i in range(bins)]
        t = []
        for i in range(bins):
            if convention == "learnit":
                t.append(edges[i] + float(u[ray, i]) * 4 / bins)
            else:
                low = edges[0] if i == 0 else (edges[i - 1] + edges[i]) / 2
                high = edges[-1] if i == bins - 1 else (edges[i] + edges[i + 1]) / 2
                t.append(low + (high - low) * float(u[ray, i]))
        raw = network(o[ray] + torch.tensor(t, dtype=torch.float64)[:, None] * d[ray], params)
        light, left, seen = torch.zeros(3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64), 0.0
        for i in range(bins):
            delta = t[i + 1] - t[i] if i + 1 < bins else (1e-3 if convention == "learnit" else 1e10)
            alpha = 1 - torch.exp(-raw[i, 3].clamp(min=0) * delta)
            light = light + left * alpha * torch.sigmoid(raw[i, :3])
            seen = seen + left * alpha
            left = left * (1 - alpha)
        pixels.append(light + 1 - seen)
    return torch.stack(pixels)


def case(modules: int = 3, rays: int = 5, bins: int = 9) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    params = initial_parameters(SPEC, modules, generator=generator)
    o = torch.nn.functional.normalize(torch.randn(modules, rays, 3, generator=generator), dim=-1) * 4
    d = torch.nn.functional.normalize(0.3 * torch.randn(modules, rays, 3, generator=generator) - o, dim=-1)
    return params, o, d, torch.rand(modules, rays, bins, generator=generator)


@pytest.mark.parametrize("convention", ["blog", "learnit"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_pixels_and_gradients_are_those_of_the_formulas(convention, backend):
    params, o, d, u = case()
    own = [p.clone().requires_grad_() for p in params]
    settings = RenderSettings.between(samples_per_ray=9, convention=convention, backend=backend)
    ours = render_objects(own, SPEC, o, d, settings, u)
    target = torch.rand(o.shape, generator=torch.Generator().manual_seed(4))
    (ours.color - target).square().mean((1, 2)).sum().backward()
    for m in range(len(o)):
        exact = [p[m].double().requires_grad_() for p in params]
        theirs = written_out(exact, o[m].double(), d[m].double(), u[m].double(), convention)
        assert float((ours.color[m] - theirs).abs().max().detach()) < 1e-5
        assert 0.05 < float(ours.opacity[m].detach().mean()) <= 1  # there is something to see
        grads = torch.autograd.grad((theirs - target[m].double()).square().mean(), exact)
        for p, grad in zip(own, grads):
            assert p.grad is not None
            assert float((p.grad[m] - grad).abs().max()) < 1e-5 * max(1.0, float(grad.abs().max()))


def test_conventions_differ_as_documented():
    noise = torch.full((1, 8), 0.5)
    both = [RenderSettings.between(samples_per_ray=8, convention=c) for c in get_args(Convention)]
    blog, learnit = (sample_distances(noise, settings)[0] for settings in both)
    edges = torch.linspace(2, 6, 8)
    assert torch.allclose(blog[1:-1], edges[1:-1])
    assert blog[0] > 2
    assert blog[-1] < 6
    assert torch.allclose(learnit, edges + 0.25)
    ends = sample_distances(torch.stack((torch.zeros(8), torch.ones(8))), RenderSettings.between(samples_per_ray=8))
    assert float(ends.min()) == 2
    assert float(ends.max()) == 6
    assert torch.allclose(ends[0, 1:], ends[1, :-1])  # no gap between bins
    d = torch.nn.functional.normalize(torch.tensor([[0.3, 0.2, -1.0], [0.0, 0.0, -1.0]]), dim=-1)
    assert torch.allclose(along_axis(d, torch.tensor([0.0, 0.0, -1.0]))[:, 2], torch.tensor([-1.0, -1.0]))


def test_objects_side_by_side_are_each_alone():
    params, o, d, u = case()
    settings = RenderSettings.between(samples_per_ray=9)

    def gradients(rows: slice) -> tuple[Tensor, list[Tensor]]:
        leaves = [p[rows].clone().requires_grad_() for p in params]
        color = render_objects(leaves, SPEC, o[rows], d[rows], settings, u[rows]).color
        return color, list(torch.autograd.grad(color.square().mean((1, 2)).sum(), leaves))

    color, grads = gradients(slice(None))
    for m in range(len(o)):
        alone, own = gradients(slice(m, m + 1))
        assert torch.equal(alone[0], color[m])
        assert all(torch.allclose(a[0], b[m], rtol=1e-5, atol=1e-6) for a, b in zip(own, grads))


def test_nothing_to_see_is_white_and_far():
    params, o, d, u = case()
    *rest, _last = params
    rest[len(rest) // 2] = rest[len(rest) // 2] * 0
    empty = (*rest, torch.tensor([0.0, 0.0, 0.0, -1.0]).repeat(3, 1))
    out = render_objects(empty, SPEC, o, d, RenderSettings.between(samples_per_ray=9), u)
    assert bool((out.color == 1).all())
    assert bool((out.opacity == 0).all())
    assert bool((out.depth == 6).all())
    full = (*rest, torch.tensor([0.0, 0.0, 0.0, 50.0]).repeat(3, 1))
    out = render_objects(full, SPEC, o, d, RenderSettings.between(samples_per_ray=9), u)
    assert torch.allclose(out.color, torch.tensor(0.5))
    assert torch.allclose(out.depth, torch.tensor(2.2), atol=0.2)


def test_pictures_come_in_pieces_of_any_size():
    params, o, d, _ = case()
    whole = render_pixels(params, SPEC, o, d, RenderSettings.between(samples_per_ray=9))
    pieces = render_pixels(params, SPEC, o, d, replace(RenderSettings.between(samples_per_ray=9), chunk=6))
    assert torch.equal(whole, pieces)
    assert whole.shape == o.shape
    assert render_pixels(params, SPEC, o[:, :0], d[:, :0], RenderSettings.between(samples_per_ray=9)).shape == (3, 0, 3)


def cameras(views: int, size: int = 6) -> Cameras:
    place = torch.nn.functional.normalize(torch.randn(views, 3, generator=torch.Generator().manual_seed(views)), dim=-1)
    return Cameras(look_at(4 * place, torch.zeros(views, 3)), 9.0, 9.0, size / 2, size / 2, size, size)


def pool(convention: str = "blog") -> ObjectPool:
    generator = torch.Generator().manual_seed(0)
    objects = [
        (torch.randint(256, (v, 6, 6, 4), generator=generator, dtype=torch.uint8), cameras(v)) for v in (2, 5, 3)
    ]
    return ObjectPool(objects, RenderSettings.between(samples_per_ray=4, convention=convention))  # type: ignore[arg-type]


def test_an_object_is_all_rays_of_its_views():
    objects = pool()
    assert objects.rows(1).shape == (5 * 36, 9)
    assert sum(objects.rows(k).shape[0] for k in range(len(objects))) == 360
    seen = cameras(5)
    o, d = seen.view_rays(4)
    rows = objects.rows(1)[4 * 36 :]
    assert torch.allclose(rows[:, :3], o)
    assert torch.allclose(rows[:, 3:6], d)
    image = torch.randint(256, (2, 6, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rgb, alpha = image[0, 0, 0, :3] / 255, image[0, 0, 0, 3] / 255
    assert torch.allclose(objects.rows(0)[0, 6:], rgb * alpha + 1 - alpha)
    assert torch.equal(on_white(torch.zeros(1, 4, dtype=torch.uint8)), torch.ones(1, 3))


def test_draws_stay_within_their_object_and_its_first_views():
    objects, which = pool(), torch.tensor([2, 0, 1])
    ids = objects.draw(which, 4000, torch.Generator().manual_seed(0))
    for row, first, last in zip(ids, (7, 0, 2), (10, 2, 7)):
        assert int(row.min()) == first * 36
        assert int(row.max()) == last * 36 - 1
    ids = objects.draw(which, 500, torch.Generator().manual_seed(0), views=1)
    assert [int(row.max()) for row in ids] == [8 * 36 - 1, 36 - 1, 3 * 36 - 1]
    assert torch.equal(objects.view_ids(which, 1)[:, 0], torch.tensor([8, 1, 3]) * 36)
    rays = pool("learnit").batch(ids)
    unit = objects.batch(ids)
    assert torch.allclose(torch.nn.functional.normalize(rays.directions, dim=-1), unit.directions, atol=1e-6)
    assert float(rays.directions.norm(dim=-1).max()) > 1.01


def test_columns_of_a_view_are_drawn_and_no_others():
    objects, which = pool(), torch.tensor([2, 0])
    whole = objects.draw(which, 300, torch.Generator().manual_seed(0))
    assert torch.equal(objects.draw(which, 300, torch.Generator().manual_seed(0), columns=(0, 6)), whole)
    left = objects.draw(which, 4000, torch.Generator().manual_seed(0), views=1, columns=(0, 2))
    for row, view in zip(left, (7, 0)):
        assert sorted(set(row.tolist())) == [view * 36 + r * 6 + c for r in range(6) for c in (0, 1)]
    assert torch.equal(objects.view_ids(which, 0, (0, 2)), torch.stack([row.unique() for row in left]))
    right = objects.view_ids(which, 0, (2, 6))
    halves = torch.cat((objects.view_ids(which, 0, (0, 2)), right), 1).sort(1).values
    assert torch.equal(halves, objects.view_ids(which, 0))
    with pytest.raises(InputError, match="columns must be 0 <= first < last <= 6, got 3 and 3"):
        objects.view_ids(which, 0, (3, 3))


def test_a_loss_of_columns_knows_nothing_of_the_others():
    params, _, _, _ = case(2)
    images = torch.randint(256, (2, 1, 6, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    other = images.clone()
    other[..., 3:, :] = 255 - other[..., 3:, :]

    def losses(pictures: Tensor, columns: tuple[int, int]) -> Tensor:
        objects = ObjectPool([(image, cameras(1)) for image in pictures], RenderSettings.between(samples_per_ray=4))
        loss = ray_loss(objects, torch.arange(2), SPEC, 64, torch.Generator().manual_seed(1), columns=columns)
        return loss(params, 0)

    assert torch.equal(losses(images, (0, 3)), losses(other, (0, 3)))
    assert not torch.equal(losses(images, (3, 6)), losses(other, (3, 6)))


def test_the_field_is_its_own_background():
    params, o, d, u = case()
    settings = RenderSettings.between(samples_per_ray=9, background="last_sample")
    empty = tuple(torch.where(torch.arange(4) == 3, -5.0, 0.3).expand_as(p) if k == len(params) - 1 else 0 * p
                  for k, p in enumerate(params))  # fmt: skip
    out = render_objects(empty, SPEC, o, d, settings, u)
    assert torch.allclose(out.color, torch.sigmoid(torch.tensor(0.3)).expand_as(out.color))  # not white
    assert torch.equal(out.opacity, torch.zeros_like(out.opacity))
    some = tuple(p.clone().requires_grad_() for p in params)
    shown = render_objects(some, SPEC, o, d, settings, u).color
    plain = [p.detach()[0].double() for p in params]
    t = sample_distances(u, settings)[0].double()
    raw = network((o[0, :, None] + t[..., None] * d[0, :, None]).double().reshape(-1, 3), plain).reshape(5, 9, 4)
    alpha = 1 - torch.exp(-raw[..., 3].clamp(min=0)[:, :-1] * (t[:, 1:] - t[:, :-1]))
    alpha = torch.cat((alpha, torch.ones(5, 1)), 1)
    left = torch.cat((torch.ones(5, 1), (1 - alpha[:, :-1]).cumprod(1)), 1)
    exact = ((alpha * left)[..., None] * torch.sigmoid(raw[..., :3])).sum(1)
    assert torch.allclose(shown[0].double(), exact, atol=1e-5)
    colors = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(1))
    slow = (shown - colors).square().mean((1, 2))
    fast = ray_losses(some, SPEC, sample_between(o, d, settings, u)[0], colors, settings)
    assert torch.allclose(slow, fast, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(fast.sum(), some), torch.autograd.grad(slow.sum(), some)):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_loss_is_of_fresh_rays_each_step_and_the_same_for_a_seed():
    params, _, _, _ = case()
    make = lambda: ray_loss(pool(), torch.tensor([0, 1, 2]), SPEC, 8, torch.Generator().manual_seed(1))  # noqa: E731
    loss = make()
    first, second = loss(params, 0), loss(params, 1)
    assert first.shape == (3,)
    assert not torch.equal(first, second)
    assert torch.equal(make()(params, 0), first)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples_per_ray": 1}, "samples_per_ray must be at least 2, got 1"),
        ({"near": 6.0}, "near and far must be"),
        ({"convention": "nerf"}, "convention must be one of cell, blog, learnit, got 'nerf'"),
        ({"background": "field"}, "background must be one of black, white, last_sample, or three numbers"),
    ],
)
def test_unusable_settings(given, message):
    with pytest.raises(InputError, match=message):
        RenderSettings.between(**given)


def test_unusable_arguments():
    params, o, d, u = case()
    with pytest.raises(ValueError, match="noise must be"):
        render_objects(params, SPEC, o, d, RenderSettings.between(samples_per_ray=8), u)
    with pytest.raises(ValueError, match="origins and directions must both"):
        render_objects(params, SPEC, o[0], d[0], RenderSettings.between(samples_per_ray=9), u)
    with pytest.raises(InputError, match="images of object 0 must fit its 2 cameras"):
        ObjectPool([(torch.zeros(3, 6, 6, 4, dtype=torch.uint8), cameras(2))], RenderSettings.between())
    with pytest.raises(InputError, match="at least one object"):
        ObjectPool([], RenderSettings.between())
