"""Many steps on rays in one call: the loop over marching and `bank_ray_mse`, the definition, and how a module ends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import places
import pytest
import torch
from fit_cases import assert_same
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast import ops
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitLog, FitRays, FitRule, FitState, Schedule, Watch
from mclnf_fast.render.samples import UNIT_BOX, points_along
from mclnf_fast.shading import OBJECT_SHADING, SCENE_SHADING, Shading

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_ray_fit")
compiled = places.backends("bank_ray_fit", reference=False)
# On CUDA sums have another order than in the ops of single steps.
bitwise = pytest.mark.parametrize("backend", [pytest.param(("cpu", "cpu"), id="cpu")], indirect=True)

PLACES = mf.FieldSpec(3, 4, width=16, hidden_layers=2, encoding=mf.Frequency(3))
VIEWS = dataclasses.replace(PLACES, in_dim=6, encoding=mf.Identity())
SHADINGS = {
    "scene": SCENE_SHADING,
    "object": OBJECT_SHADING,
    "color behind": dataclasses.replace(SCENE_SHADING, background=(0.2, 0.5, 0.9), detach_last_density=True),
}
GIVEN = torch.randint(0, 150, (5, 3, 70), generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass
class Case:
    spec: mf.FieldSpec
    params: tuple[Tensor, ...]
    rays: FitRays

    def state(self, kind: Any = "adam") -> FitState:
        return FitState.begin([p.clone() for p in self.params], kind)


def make(
    spec: mf.FieldSpec = PLACES,
    shading: Shading = SCENE_SHADING,
    *,
    modules: int = 3,
    weighted: bool = False,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Case:
    """Rays towards the box from all sides; one in nine misses it, one in ten begins inside."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    offsets = torch.tensor([0, *(150 + 11 * m for m in range(modules))]).cumsum(0)
    count = int(offsets[-1])
    origins = 3 * torch.nn.functional.normalize(normal(count, 3), dim=-1)
    origins[::10] *= 0.1
    directions = torch.nn.functional.normalize(0.3 * normal(count, 3) - origins, dim=-1)
    directions[::9] *= -1
    weights = [normal(modules, *shape) * (2 / shape[0]) ** 0.5 for shape in spec.layer_shapes]
    biases = [0.1 * normal(modules, shape[1]) for shape in spec.layer_shapes]
    colors = normal(count, 3).sigmoid()
    rays = FitRays(origins, directions, colors, offsets, shading, **{"samples_per_ray": 13, **options})
    if spec.in_dim == 6:
        rays = rays._replace(view=directions)
    return Case(spec, (*weights, *biases), rays._replace(weight=normal(count).sigmoid()) if weighted else rays)


def ray_loss(case: Case, rays: FitRays, params: list[Tensor], k: int) -> Tensor:
    box = rays.origins.new_tensor(UNIT_BOX)
    cut = ops.march_rays(
        rays.origins, rays.directions, None, box, bins=rays.samples_per_ray, near=rays.near, far=rays.far,
        stratified=rays.jitter, seed=k,
    )  # fmt: skip
    x = points_along(rays.origins, rays.directions, cut.ray_ids, (cut.t_starts + cut.t_ends) * 0.5)
    if rays.view is not None:
        x = torch.cat((x, rays.view[cut.ray_ids]), -1)
    first = torch.cat((cut.packed_info[:, 0], torch.tensor([len(x)])))
    half = len(params) // 2
    pair = params[:half], params[half:]
    deltas = cut.t_ends - cut.t_starts
    return ops.bank_ray_mse(
        x, first, rays.offsets, *pair, deltas, rays.colors, case.spec, rays.shading, ray_weight=rays.weight
    )


def loop(case: Case, steps: int, draws: Draws, rule: FitRule) -> tuple[FitState, Tensor]:
    """Make the steps one by one, module by module; return the state and the losses [steps, M]."""
    state, modules = case.state(rule.kind), len(case.params[0])
    losses = case.rays.origins.new_zeros(steps, modules)
    for m in range(modules):
        params = [p[m : m + 1].clone().requires_grad_() for p in state.params]
        optimizer = BankOptimizer(params, "sgd")
        for k in range(steps):
            if k == rule.schedule.sgd_steps and rule.kind == "adam":
                optimizer = BankOptimizer(params, "adam", betas=rule.betas, eps=rule.eps)
            optimizer.set_lr(rule.schedule.rate(k))
            ids = None if draws.ids is None else draws.ids[k, m]
            if draws.rule in ("uniform", "even"):
                size, number = case.rays.sizes[m : m + 1], torch.tensor([m])
                ids = ops.draw_ids(size, draws.batch, k, rule=draws.rule, seed=draws.seed, modules=number)[0]
            weights = None if draws.weights is None else draws.weights[k, m]
            loss = ray_loss(case, case.rays.drawn(m, ids, weights), params, k)
            optimizer.step(torch.autograd.grad(loss.sum(), params))
            losses[k, m] = loss.detach()[0]
        with torch.no_grad():
            for to, p in zip(state.params, params):
                to[m] = p[0]
        if rule.kind == "adam" and steps > rule.schedule.sgd_steps:
            saved = optimizer.state_dict()
            for i in range(len(params)):
                state.exp_avg[i][m], state.exp_avg_sq[i][m] = saved[f"exp_avg.{i}"][0], saved[f"exp_avg_sq.{i}"][0]
    state.steps += steps
    return state, losses


def fit(case: Case, state: FitState, steps: Any, backend: str = "auto", **options: Any) -> FitLog:
    return ops.bank_fit(state, case.rays, case.spec, steps, backend=backend, **options)


DRAWS = {
    "uniform": Draws("uniform", 70, seed=4),
    "several runs": Draws("uniform", 149, seed=4),
    "even": Draws("even", 70),
    "whole": Draws("whole"),
    "given": Draws("given", ids=GIVEN),
    "given with weights": Draws("given", ids=GIVEN, weights=torch.rand(5, 3, 70) + 0.5),
}


@bitwise
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("shading", SHADINGS)
def test_bits_of_the_loop(need, backend: str, draws: str, shading: str) -> None:
    need("bank_ray_fit", backend)
    case = make(VIEWS if draws == "even" else PLACES, SHADINGS[shading], weighted=draws in ("whole", "several runs"))
    rule = FitRule(Schedule(2e-3, sgd_steps=2, sgd_lr=1e-2), "sgd" if draws == "given" else "adam")
    expected, losses = loop(case, 5, DRAWS[draws], rule)
    state = case.state(rule.kind)
    log = fit(case, state, 5, backend, draws=DRAWS[draws], rule=rule, watch=Watch((1, 2, 3, 4, 5)))
    assert torch.equal(log.losses, losses)
    assert_same(state, expected)


@bitwise
@pytest.mark.parametrize("options", [{"jitter": False}, {"near": 0.5, "far": 2.5}, {"samples_per_ray": 130}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_the_loop_with_every_cut(need, backend: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """More samples than the bits of a word among them."""
    need("bank_ray_fit", backend, dtype)
    case, rule = make(modules=2, dtype=dtype, **options), FitRule(Schedule(1e-3))
    expected, _ = loop(case, 3, DRAWS["uniform"], rule)
    state = case.state()
    fit(case, state, 3, backend, draws=DRAWS["uniform"], rule=rule)
    assert_same(state, expected)


@compiled
def test_any_cut_into_calls_and_any_threads(need, backend: str) -> None:
    need("bank_ray_fit", backend)
    case, before = make(modules=2), torch.get_num_threads()
    whole = case.state()
    fit(case, whole, 6, backend, draws=DRAWS["uniform"])
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            cut = case.state()
            for steps in (1, torch.tensor([3, 0]), torch.tensor([2, 5])):
                fit(case, cut, steps, backend, draws=DRAWS["uniform"])
            assert_same(whole, cut)
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize("shading", SHADINGS)
@pytest.mark.parametrize("spec", [PLACES, VIEWS], ids=["places", "views"])
def test_agrees_with_the_reference(need, backend: str, shading: str, spec: mf.FieldSpec) -> None:
    """In fp64, the loss over all rays included, which has no jitter."""
    need("bank_ray_fit", backend, torch.float64)
    case = make(spec, SHADINGS[shading], weighted=True, dtype=torch.float64)
    weights = torch.rand(5, 3, 70, dtype=torch.float64) + 0.5
    options = {
        "draws": Draws("given", ids=GIVEN, weights=weights),
        "rule": FitRule(Schedule(1e-3)),
        "watch": Watch((1, 4), stop_loss=0.0, check_every=4),
    }
    known, state = case.state(), case.state()
    log, result = fit(case, known, 4, "reference", **options), fit(case, state, 4, backend, **options)
    for a, b in zip(known.params, state.params, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(result.losses, log.losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.checked, log.checked, rtol=1e-9, atol=1e-12)
    without = fit(case, case.state(), 4, backend, **{**options, "watch": Watch((1,))})
    assert torch.equal(without.losses[0], result.losses[0])


@backends
def test_how_modules_end(need, backend: str) -> None:
    """One whose rays all miss learns nothing and stays finite, one with a NaN is named, one is frozen."""
    need("bank_ray_fit", backend)
    case = make(shading=OBJECT_SHADING)
    first, second, third = case.rays.offsets[:3].tolist()
    case.rays.origins[first:second] = torch.tensor([5.0, 0.0, 0.0])
    case.rays.directions[first:second] = torch.tensor([1.0, 0.0, 0.0])
    case.rays.colors[second + 3] = math.nan
    state, before = case.state(), case.state()
    log = fit(case, state, torch.tensor([3, 3, 0]), backend, draws=Draws("whole"), watch=Watch((1,)))
    assert log.ends.tolist() == [FitEnd.STEPS, FitEnd.DIVERGED, FitEnd.FROZEN]
    assert state.steps.tolist() == [3, 0, 0]
    white = (1 - case.rays.colors[first:second]).square().mean()
    torch.testing.assert_close(log.losses[0, 0], white, rtol=1e-5, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(state.params, before.params, strict=True))
    assert third == int(case.rays.offsets[2])


@compiled
def test_learns_a_color(need, backend: str) -> None:
    """An object of one color before white: from a random field to 30 dB."""
    need("bank_ray_fit", backend)
    case = make(modules=1, shading=OBJECT_SHADING)
    hit = (case.rays.origins * case.rays.directions).sum(1) < 0
    case.rays.colors[:] = torch.where(hit[:, None], torch.tensor([0.8, 0.3, 0.1]), torch.ones(3))
    state = case.state()
    state.params[-1][:, 3] = 1.0
    watch = Watch(losses_at=(1, 300))
    log = fit(case, state, 300, backend, draws=Draws("even", 100), rule=FitRule(Schedule(1e-2)), watch=watch)
    assert float(log.losses[1]) < 1e-2 * float(log.losses[0]) + 1e-3


@compiled
def test_opcheck(need, backend: str) -> None:
    need("bank_ray_fit", backend)
    case = make()
    state, half, rays = case.state(), len(case.params) // 2, case.rays
    by_layer = [t for l in range(half) for t in (state.params[l], state.params[half + l])]
    zeros = [torch.zeros_like(t) for t in by_layer]
    arguments = (
        rays.origins, rays.directions, None, rays.offsets, rays.colors, None, None, 13, 0.0, math.inf, True, True,
        False, True, True, 9.0, by_layer, zeros, [t.clone() for t in zeros], state.steps, state.steps + 2,
        Schedule().rates(2), 0, True, 0, 0.9, 0.999, 1e-8, 0.0, [], [], 0, 20, None, None, 0, 0, torch.arange(3),
        torch.tensor([1]), torch.tensor([2]), None, 1, 0, *case.spec.packed,
    )  # fmt: skip
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.mclnf_fast.bank_ray_fit.default, arguments, test_utils=tests)


def replaced(**options: Any) -> FitRays:
    return make().rays._replace(**options)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TypeError, "data must be a FitData or a FitRays", {"data": make().rays.origins}),
        (ValueError, r"data.origins must have shape \[R, 3\]", {"data": replaced(origins=torch.zeros(4, 2))}),
        (ValueError, "data.colors", {"data": replaced(colors=torch.zeros(4, 3))}),
        (TypeError, "data.directions", {"data": replaced(directions=make().rays.directions.double())}),
        (ValueError, "data.offsets", {"data": replaced(offsets=torch.tensor([0, 4]))}),
        (ValueError, "data.view must be None", {"data": replaced(view=torch.zeros(483, 3))}),
        (ValueError, r"data.view must be \[R, 3\]", {"data": make(VIEWS).rays._replace(view=None), "spec": VIEWS}),
        (ValueError, "data.weight", {"data": replaced(weight=torch.ones(4))}),
        (TypeError, "data.shading", {"data": replaced(shading="white")}),
        (ValueError, "data.samples_per_ray", {"data": replaced(samples_per_ray=0)}),
        (ValueError, "data.samples_per_ray", {"data": replaced(samples_per_ray=(1 << 24) + 1)}),
        (ValueError, "data.near", {"data": replaced(near=-1.0)}),
        (ValueError, "data.far", {"data": replaced(near=2.0, far=2.0)}),
        (TypeError, "data.jitter", {"data": replaced(jitter="no")}),
        (ValueError, "spec must have out_dim 4", {"spec": dataclasses.replace(PLACES, out_dim=3)}),
        (ValueError, "draws.batch must be at most the 150", {"draws": Draws(batch=151)}),
        (ValueError, "samples for module 1", {"data": replaced(offsets=torch.tensor([0, 150, 150, 483]))}),
    ],
)
def test_bad_input_is_refused_and_nothing_changed(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    case = make(options.get("spec", PLACES))
    state = case.state()
    call = {"data": case.rays, "spec": case.spec, "steps": 2, "draws": Draws(batch=20), **options}
    with pytest.raises(error, match=match):
        ops.bank_fit(state, call.pop("data"), call.pop("spec"), call.pop("steps"), **call)
    assert_same(state, case.state())
