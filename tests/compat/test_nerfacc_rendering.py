"""compat.nerfacc: scans, transmittance, weights, visibility, pixels and distortion, against plain loops in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mclnf_fast.compat import nerfacc

COUNTS = [3, 0, 1, 7, 0, 17, 0]
RAYS = len(COUNTS)
INDICES = torch.arange(RAYS).repeat_interleave(torch.tensor(COUNTS))
PACKED = torch.tensor([[sum(COUNTS[:k]), count] for k, count in enumerate(COUNTS)])
N = sum(COUNTS)
SCANS = (nerfacc.inclusive_sum, nerfacc.exclusive_sum, nerfacc.inclusive_prod, nerfacc.exclusive_prod)


def uniform(*size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(len(size) + size[0])
    return low + (high - low) * torch.rand(*size, dtype=torch.float64, generator=generator)


def scanned(name: str, values: list[float]) -> list[float]:
    result, state = [], 1.0 if "prod" in name else 0.0
    for value in values:
        before = state
        state = state * value if "prod" in name else state + value
        result.append(before if "exclusive" in name else state)
    return result


@pytest.mark.parametrize("scan", SCANS)
def test_scans(scan: Callable[..., Tensor]) -> None:
    values = uniform(N, low=0.5, high=1.5)
    wanted = [
        x for first, count in PACKED.tolist() for x in scanned(scan.__name__, values[first : first + count].tolist())
    ]
    for layout in ({"packed_info": PACKED}, {"indices": INDICES}, {"packed_info": PACKED.int()}):
        torch.testing.assert_close(scan(values, **layout), torch.tensor(wanted, dtype=torch.float64))
        assert scan(values.float(), **layout).dtype == torch.float32
    dense = values[:27].reshape(3, 9)
    rows = torch.tensor([scanned(scan.__name__, row) for row in dense.tolist()], dtype=torch.float64)
    torch.testing.assert_close(scan(dense), rows)
    torch.testing.assert_close(scan(dense[0]), rows[0])
    torch.testing.assert_close(scan(dense.t().contiguous().t()), rows)
    # Runs of equal indices are rays, in any order.
    assert torch.equal(scan(values, indices=RAYS - INDICES), scan(values, indices=INDICES))
    for layout in ({"packed_info": PACKED[:0]}, {"indices": INDICES[:0]}, {}):
        assert scan(values[:0], **layout).shape == (0,)
    assert scan(torch.zeros(0, 5)).shape == (0, 5)
    assert scan(torch.zeros(5, 0)).shape == (5, 0)


@pytest.mark.parametrize("scan", SCANS)
def test_scans_are_differentiable_at_zeros_too(scan: Callable[..., Tensor]) -> None:
    values = uniform(9, low=0.5, high=1.5)
    values[2], values[5], values[7] = 0.0, 0.0, 0.0
    values.requires_grad_()
    for layout in ({"indices": torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2])}, {}):
        assert torch.autograd.gradcheck(lambda x, layout=layout: scan(x, **layout), values)
        assert torch.autograd.gradgradcheck(lambda x, layout=layout: scan(x, **layout), values)


def looped(sigmas: Tensor, lengths: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Weights, transmittance and opacities of one ray."""
    depth, found = 0.0, ([], [], [])
    for sigma, length in zip(sigmas.tolist(), lengths.tolist()):
        trans, alpha = math.exp(-depth), 1 - math.exp(-sigma * length)
        for values, value in zip(found, (trans * alpha, trans, alpha)):
            values.append(value)
        depth += sigma * length
    return found


def samples(dense: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """t_starts, t_ends and sigmas."""
    size = (4, 9) if dense else (N,)
    starts = 0.3 * uniform(*size, 1)[..., 0] + torch.arange(size[-1])
    return starts, starts + 0.5 * uniform(*size, 2)[..., 0], uniform(*size, 3, high=3.0)[..., 0]


def parts(dense: bool) -> list[Any]:
    return list(range(4)) if dense else [slice(first, first + count) for first, count in PACKED.tolist()]


@pytest.mark.parametrize("dense", [False, True])
def test_weights_and_transmittance(dense: bool) -> None:
    starts, ends, sigmas = samples(dense)
    wanted = [torch.zeros_like(sigmas) for _ in range(3)]
    for part in parts(dense):
        for values, row in zip(wanted, looped(sigmas[part], (ends - starts)[part])):
            values[part] = torch.tensor(row, dtype=torch.float64)
    prefix = uniform(*sigmas.shape, 4)[..., 0]
    for layout in ({},) if dense else ({"packed_info": PACKED}, {"ray_indices": INDICES, "n_rays": RAYS}):
        results = nerfacc.render_weight_from_density(starts, ends, sigmas, **layout)
        torch.testing.assert_close(list(results), wanted)
        results = nerfacc.render_transmittance_from_density(starts, ends, sigmas, prefix_trans=prefix, **layout)
        torch.testing.assert_close(list(results), [wanted[1] * prefix, wanted[2]])
        alphas = wanted[2]
        results = nerfacc.render_weight_from_alpha(alphas, **layout)
        torch.testing.assert_close(list(results), wanted[:2])
        trans = nerfacc.render_transmittance_from_alpha(alphas, prefix_trans=prefix, **layout)
        torch.testing.assert_close(trans, wanted[1] * prefix)
        for eps, threshold in ((1e-4, 0.0), (0.2, 0.0), (0.2, 0.5)):
            seen = (wanted[1] >= eps) & (alphas >= threshold)
            assert int(seen.sum()) > 0
            options = {"early_stop_eps": eps, "alpha_thre": threshold, **layout}
            assert torch.equal(nerfacc.render_visibility_from_alpha(alphas, **options), seen)
            assert torch.equal(nerfacc.render_visibility_from_density(starts, ends, sigmas, **options), seen)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kind", ["rgb_sigma_fn", "rgb_alpha_fn"])
def test_pixels(dense: bool, kind: str) -> None:
    starts, ends, sigmas = samples(dense)
    rgbs, background = uniform(*sigmas.shape, 3), torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)
    weights = torch.zeros_like(sigmas)
    colors, opacities, depths = torch.zeros(4 if dense else RAYS, 5, dtype=torch.float64).split((3, 1, 1), 1)
    for r, part in enumerate(parts(dense)):
        row, *_ = looped(sigmas[part], (ends - starts)[part])
        weights[part] = torch.tensor(row, dtype=torch.float64)
        for w, rgb, t in zip(row, rgbs[part], ((starts + ends) / 2)[part]):
            colors[r] += w * rgb
            opacities[r] += w
            depths[r] += w * t
    calls = []

    def field(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append(ray_indices)
        return rgbs, sigmas if kind == "rgb_sigma_fn" else 1 - torch.exp(-sigmas * (ends - starts))

    rays = {} if dense else {"ray_indices": INDICES, "n_rays": RAYS}
    found = nerfacc.rendering(starts, ends, **rays, **{kind: field}, render_bkgd=background, expected_depths=False)
    assert calls[0] is rays.get("ray_indices")
    wanted = (colors + (1 - opacities) * background, opacities, depths)
    torch.testing.assert_close(list(found[:3]), list(wanted))
    torch.testing.assert_close(found[3]["weights"], weights)
    assert set(found[3]) == {"weights", "alphas", "trans", "rgbs"} | ({"sigmas"} if kind == "rgb_sigma_fn" else set())
    expected = nerfacc.rendering(starts, ends, **rays, **{kind: field})
    torch.testing.assert_close(expected[0], colors)
    torch.testing.assert_close(expected[2], depths / opacities.clamp_min(2.2e-16))
    if not dense:  # rays in another order, or in several pieces, are composited as pieces and added
        turned = nerfacc.rendering(starts, ends, RAYS - 1 - INDICES, RAYS, **{kind: field})
        torch.testing.assert_close(turned[0], colors.flip(0))


@pytest.mark.parametrize("kind", ["rgb_sigma_fn", "rgb_alpha_fn"])
def test_pixels_are_differentiable_twice(kind: str) -> None:
    indices, starts = torch.tensor([0, 0, 0, 2, 2]), uniform(5, 1)[:, 0] + torch.arange(5.0)
    ends, rgbs, opaque = starts + 0.7, uniform(5, 3), uniform(5, 2)[:, 0] * 0.9
    weight = uniform(3, 5)

    def pixels(rgbs: Tensor, opaque: Tensor) -> Tensor:
        colors, opacities, depths, extras = nerfacc.rendering(
            starts, ends, indices, 3, **{kind: lambda *_: (rgbs, opaque)}, render_bkgd=torch.ones(3).double()
        )
        return torch.cat([colors, opacities, depths], 1)[[0, 2]] * weight[:2], extras["trans"] * extras["weights"]

    inputs = (rgbs.requires_grad_(), opaque.requires_grad_())
    assert torch.autograd.gradcheck(pixels, inputs)
    assert torch.autograd.gradgradcheck(pixels, inputs)


@pytest.mark.parametrize("kind", ["rgb_sigma_fn", "rgb_alpha_fn"])
def test_no_samples_no_rays_and_one_ray(kind: str) -> None:
    background = torch.tensor([0.25, 0.5, 1.0])
    for rays, size in ((0, 0), (5, 0), (1, 1), (1, 4)):
        sigmas = torch.rand(size, requires_grad=True)
        starts = torch.arange(float(size))
        field = {kind: lambda s, e, i, sigmas=sigmas: (sigmas[:, None].expand(-1, 3), sigmas)}
        indices = torch.zeros(size, dtype=torch.int64)
        colors, opacities, depths, _ = nerfacc.rendering(
            starts, starts + 1, indices, rays, **field, render_bkgd=background
        )
        assert (colors.shape, opacities.shape, depths.shape) == ((rays, 3), (rays, 1), (rays, 1))
        if size == 0:
            assert torch.equal(colors, background.expand(rays, 3))
        (colors.sum() + depths.sum()).backward()
        assert sigmas.grad is not None
        assert bool(sigmas.grad.isfinite().all())
    for shape in ((0, 4), (4, 0)):
        starts = torch.zeros(shape)
        field = {kind: lambda s, e, i: (s[..., None].expand(*s.shape, 3), s)}
        colors, opacities, depths, _ = nerfacc.rendering(starts, starts + 1, **field, render_bkgd=background)
        assert torch.equal(colors, background.expand(shape[0], 3))
        assert depths.tolist() == [[0.0]] * shape[0]


def test_an_endless_density_ends_a_ray_without_nan() -> None:
    sigmas = torch.tensor([[1.0, 0.5, math.inf]], requires_grad=True)
    starts = torch.tensor([[0.0, 1.0, 2.0]])
    ends = torch.tensor([[1.0, 2.0, 2.0]])
    for last in (2.0, 3.0):  # a last sample without a length as well
        ends[0, 2] = last
        colors, opacities, *_ = nerfacc.rendering(
            starts, ends, rgb_sigma_fn=lambda *_: (torch.ones(1, 3, 3), sigmas), render_bkgd=torch.zeros(3)
        )
        gradient = torch.autograd.grad(colors.sum(), sigmas)[0]
        assert bool(gradient.isfinite().all())
        assert opacities.item() == pytest.approx(1.0 if last == 3.0 else 1 - math.exp(-1.5))
        weights, trans, alphas = nerfacc.render_weight_from_density(starts, ends, sigmas)
        assert bool(torch.stack([weights, trans, alphas]).isfinite().all())


def test_mixed_dtypes_as_under_autocast() -> None:
    starts, indices = torch.arange(4.0), torch.tensor([0, 0, 1, 1])
    for rgb, sigma in ((torch.float16, torch.float32), (torch.float16, torch.float16), (torch.float32, torch.float16)):
        field = lambda *_, rgb=rgb, sigma=sigma: (torch.ones(4, 3, dtype=rgb), torch.ones(4, dtype=sigma))  # noqa: E731
        colors, opacities, depths, _ = nerfacc.rendering(starts, starts + 1, indices, 2, rgb_sigma_fn=field)
        assert {colors.dtype, opacities.dtype, depths.dtype} == {torch.float32}
        torch.testing.assert_close(colors, torch.full((2, 3), 1 - math.exp(-2.0)))


def test_accumulation() -> None:
    weights, values = uniform(N), uniform(N, 2)
    shuffled = torch.randperm(N)
    wanted = torch.zeros(RAYS, 2, dtype=torch.float64)
    for w, row, ray in zip(weights, values, INDICES.tolist()):
        wanted[ray] += w * row
    for order in (torch.arange(N), shuffled):
        result = nerfacc.accumulate_along_rays(weights[order], values[order], INDICES[order], RAYS)
        torch.testing.assert_close(result, wanted)
    outputs = torch.ones(RAYS, 2, dtype=torch.float64)
    nerfacc.accumulate_along_rays_(weights, values, INDICES, outputs)
    torch.testing.assert_close(outputs, wanted + 1)
    dense = nerfacc.accumulate_along_rays(weights[:28].reshape(4, 7), values[:28].reshape(4, 7, 2))
    torch.testing.assert_close(dense, (weights[:28, None] * values[:28]).reshape(4, 7, 2).sum(1))
    outputs = torch.ones(4, 1, dtype=torch.float64)
    nerfacc.accumulate_along_rays_(weights[:28].reshape(4, 7), None, None, outputs)
    torch.testing.assert_close(outputs, weights[:28].reshape(4, 7).sum(1, keepdim=True) + 1)
    empty = nerfacc.accumulate_along_rays(weights[:0], None, INDICES[:0], 3)
    assert torch.equal(empty, torch.zeros(3, 1, dtype=torch.float64))
    inputs = (weights.requires_grad_(), values.requires_grad_())
    assert torch.autograd.gradcheck(lambda w, v: nerfacc.accumulate_along_rays(w, v, INDICES, RAYS), inputs)


def test_distortion() -> None:
    starts, ends, weights = samples()
    weights = weights / 3
    wanted = []
    for part in parts(False):
        middles, w, length = (t[part].tolist() for t in ((starts + ends) / 2, weights, ends - starts))
        pairs = sum(a * b * abs(s - t) for a, s in zip(w, middles) for b, t in zip(w, middles))
        wanted.append([pairs + sum(a * a * d for a, d in zip(w, length)) / 3])
    found = nerfacc.distortion(weights, starts, ends, INDICES, RAYS)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    inputs = tuple(t[:7].clone().requires_grad_() for t in (weights, starts, ends))
    assert torch.autograd.gradcheck(lambda *t: nerfacc.distortion(*t, INDICES[:7], RAYS), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: nerfacc.distortion(*t, INDICES[:7], RAYS), inputs)
    assert nerfacc.distortion(weights[:0], starts[:0], ends[:0], INDICES[:0], 2).tolist() == [[0.0], [0.0]]


def test_packing() -> None:
    assert nerfacc.pack_info(INDICES, RAYS).tolist() == PACKED.tolist()
    assert nerfacc.pack_info(INDICES).tolist() == PACKED[:-1].tolist()  # up to the last ray that has one
    assert nerfacc.pack_info(INDICES.int(), RAYS).dtype == torch.int32
    assert nerfacc.pack_info(INDICES[:0]).shape == (0, 2)
    assert nerfacc.pack_info(INDICES[:0], 2).tolist() == [[0, 0], [0, 0]]


LINE = torch.arange(3.0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nerfacc.pack_info(torch.tensor([0, 5]), 3), ValueError, "ray_indices must be in 0 ... 2"),
        (lambda: nerfacc.pack_info(LINE), TypeError, "ray_indices must have dtype"),
        (lambda: nerfacc.inclusive_sum(LINE, PACKED, INDICES), ValueError, "packed_info and indices must not"),
        (lambda: nerfacc.exclusive_sum(LINE, indices=INDICES), ValueError, "indices must have shape"),
        (lambda: nerfacc.inclusive_prod(LINE[None], packed_info=PACKED), ValueError, "inputs must have shape"),
        (lambda: nerfacc.exclusive_prod(LINE, packed_info=PACKED), ValueError, "packed_info must hold"),
        (lambda: nerfacc.rendering(LINE, LINE, None, None), ValueError, "rgb_sigma_fn or rgb_alpha_fn"),
        (lambda: nerfacc.rendering(LINE, LINE[:2], rgb_sigma_fn=print), ValueError, "t_ends must have shape"),
        (
            lambda: nerfacc.rendering(LINE, LINE, LINE.long(), rgb_sigma_fn=print),
            ValueError,
            "n_rays must be an int of at least 0, given with ray_indices, got None",
        ),
        (
            lambda: nerfacc.rendering(LINE, LINE, LINE.long(), 3, rgb_sigma_fn=lambda *_: (LINE, LINE)),
            ValueError,
            "the colors of rgb_sigma_fn must have shape",
        ),
        (
            lambda: nerfacc.rendering(LINE, LINE, rgb_alpha_fn=lambda *_: (LINE, LINE[:, None])),
            ValueError,
            "the densities or opacities of rgb_alpha_fn must have shape",
        ),
        (lambda: nerfacc.render_weight_from_density(LINE, LINE, LINE[:1]), ValueError, "sigmas must have shape"),
        (
            lambda: nerfacc.render_weight_from_alpha(LINE, PACKED, INDICES),
            ValueError,
            "packed_info and ray_indices must not be given both",
        ),
        (lambda: nerfacc.accumulate_along_rays(LINE, LINE), ValueError, "values must have shape"),
        (lambda: nerfacc.accumulate_along_rays(LINE, None, LINE.long()), ValueError, "n_rays must be an int"),
        (lambda: nerfacc.accumulate_along_rays_(LINE, None, LINE.long(), None), TypeError, "outputs must be a tensor"),
        (lambda: nerfacc.distortion(LINE, LINE, LINE, INDICES, 3), ValueError, "ray_indices must have shape"),
    ],
)
def test_errors_name_the_argument(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
