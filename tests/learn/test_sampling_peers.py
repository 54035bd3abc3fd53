"""The selectors of the literature do what they are said to do, and the page shows the measured figures."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import guided_steps, sampling_peers
from benchmarks.sampling import contenders, measure, report, selectors
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.methods import AdaptConfig
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.coords import CoordTask

BOX, LAST = (6, 8), 40


def task(dtype: torch.dtype = torch.float32) -> CoordTask:
    spec = FieldSpec(2, 3, 8, 1, "sine", w0=10.0)
    axes = [torch.linspace(-1, 1, size, dtype=dtype) for size in BOX]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    y = torch.rand(2, 48, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return CoordTask("noise", x, y, spec, curve=torch.arange(48))


def place() -> contenders.Place:
    init = initial_parameters(task().spec, 1, generator=torch.Generator().manual_seed(0))
    return contenders.Place(task(), BOX, init, AdaptConfig(batch=12), 0, LAST)


def bank(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return initial_parameters(task().spec, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("contender", contenders.CONTENDERS, ids=lambda c: c.name)
def test_every_setting_runs_and_counts_its_operations(contender):
    for options in contender.tried:
        method = contenders.method(contender, options, place())
        method.begin(0)
        while method.made < LAST:
            method.steps(0, LAST - method.made)
        assert all(bool(p.isfinite().all()) for p in method.params_of(0))
        fewest = 3 * 12 * LAST
        if contender.name in ("uniform", "even", "even_weighted", "soft_mining"):
            assert contenders.passes(method) == fewest
        else:
            assert contenders.passes(method) > 0.95 * fewest  # sizes that grow are rounded


def test_int_takes_the_largest_errors_at_its_intervals():
    params, the = bank(), task()
    chosen = selectors.INT(the, BOX, 12, LAST, longest=1, growing=False)
    ids, weights = chosen.choose(params, 0, 8, lambda k: torch.Generator())
    errors = (the.predict(params) - the.y).abs().sum(-1)
    assert ids.shape == (1, 2, 12)
    assert weights is None
    for m in range(2):
        assert errors[m, ids[0, m]].min() >= errors[m].sort(descending=True).values[11]
    assert chosen.passes == 48
    growing = selectors.INT(the, BOX, 12, 500, longest=50, growing=True)
    sizes = [growing.size(step) for step in range(500)]
    assert sizes == sorted(sizes)
    assert sum(sizes) / 500 == pytest.approx(12, rel=0.05)
    assert [growing.interval(step) for step in (0, 124, 125, 300, 499)] == [1, 1, 10, 30, 50]


def test_gradncp_takes_the_longest_gradients_of_the_last_layer():
    params, the = bank(), task()
    found = selectors.GradNCP(the, BOX, 12, LAST, longest=4, growing=False)
    ids, _ = found.choose(params, 0, 100, lambda k: torch.Generator())
    assert ids.shape == (4, 2, 12)
    for m in range(2):
        leaves = [p[m].clone().requires_grad_() for p in params]
        lengths = []
        for n in range(48):
            hidden = torch.sin(10 * (the.x[n] @ leaves[0] + leaves[2]))
            loss = (hidden @ leaves[1] + leaves[3] - the.y[m, n]).square().sum() / 2
            gradients = torch.autograd.grad(loss, (leaves[1], leaves[3]))
            lengths.append(sum(g.square().sum() for g in gradients))
        assert set(ids[0, m].tolist()) == set(torch.stack(lengths).topk(12).indices.tolist())


def test_evos_trains_on_all_then_on_survivors_and_fresh_mutants():
    found = selectors.EVOS(task(), BOX, 12, LAST, first=10, mutation=0.5)

    def seeds(k: int) -> torch.Generator:
        return torch.Generator().manual_seed(k)

    whole, _ = found.choose(bank(), 0, 100, seeds)
    assert torch.equal(whole[0, 1], torch.arange(48))
    ids, _ = found.choose(bank(), 1, 100, seeds)
    assert ids.shape == (9, 2, 12)
    assert all(len(set(row.tolist())) == 12 for step in ids for row in step)
    assert torch.equal(ids[0, :, :6], ids[8, :, :6])
    assert not torch.equal(ids[0, :, 6:], ids[8, :, 6:])
    assert [found.interval(step) for step in (0, LAST)] == [10, 5]


def test_crossover_takes_what_both_name_and_shares_the_rest():
    error = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 0.0, 0.0]])
    rough = torch.tensor([[9.0, 1.0, 0.0, 0.0, 8.0, 7.0, 6.0, 1.0]])
    # Both name 0; three are missing, of which equal means give one to the errors and two to the Laplacian.
    assert selectors.crossover(error, rough, 4).tolist() == [[0, 1, 4, 5]]
    assert selectors.crossover(error, 1e-9 * rough, 4).tolist() == [[0, 1, 2, 3]]


def test_the_laplacian_is_that_of_the_grid():
    values = torch.rand(1, 48, 3)
    gray = values.mean(-1).reshape(BOX)
    found = selectors.laplacian(values, BOX).reshape(BOX)
    expected = gray[2, 3] + gray[4, 3] + gray[3, 2] + gray[3, 4] - 4 * gray[3, 3]
    torch.testing.assert_close(found[3, 3], expected)
    torch.testing.assert_close(found[0, 0], gray[1, 0] + gray[0, 1] - 4 * gray[0, 0])
    line = torch.tensor([1.0, 4.0, 9.0]).reshape(1, 3, 1)
    assert selectors.laplacian(line, (3,)).tolist() == [[2.0, 2.0, -14.0]]


def test_kernel_scores_are_those_of_the_jacobian():
    the, params = task(torch.float64), bank(torch.float64)
    residuals = the.predict(params) - the.y
    found = selectors.kernel_scores(the, params, residuals)
    for m in range(2):

        def outputs(*values: torch.Tensor) -> torch.Tensor:
            hidden = torch.sin(10 * (the.x @ values[0] + values[2]))
            return (hidden @ values[1] + values[3]).flatten()

        jacobian = torch.autograd.functional.jacobian(outputs, tuple(p[m] for p in params))
        whole = torch.cat([j.flatten(1) for j in jacobian], 1)
        expected = (whole @ (whole.T @ residuals[m].flatten())).reshape(48, 3).norm(dim=1)
        torch.testing.assert_close(found[m], expected)


def test_nint_joins_kernel_errors_and_chance():
    found = selectors.NINT(task(), BOX, 12, LAST, random=0.5, every=1, fade=0.0)
    ids, _ = found.choose(bank(), 0, 100, lambda k: torch.Generator().manual_seed(k))
    assert ids.shape == (1, 2, 12)
    assert all(len(set(row.tolist())) == 12 for row in ids[0])
    assert (found.by_kernel.shape[1], found.by_error.shape[1]) == (3, 3)
    assert found.passes == (1 + 5) * 48


def test_soft_mining_corrects_for_its_density_and_renews_chains():
    method = contenders.method(contenders.NAMED["soft_mining"], {"alpha": 0.8, "a": 0.005}, place())
    method.begin(0)
    method.step(0, 0)
    before = method.places.clone()
    assert float(before.min()) >= 0
    assert float(before.max()) <= 1
    # In the first step the exponent is 0: the loss is that of the samples as they are.
    torch.testing.assert_close(method.last_loss.mean(1), method.losses)
    after = method.moved(before, torch.Generator().manual_seed(5))
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1
    assert not torch.equal(before, after)


def test_psnr_at_a_budget_lies_between_two_looks():
    curve = measure.Curve([[10.0, 20.0], [20.0, 40.0]], [100.0, 200.0])
    assert measure.at_budget(curve, 150.0) == [15.0, 30.0]
    assert measure.at_budget(curve, 50.0) == [10.0, 20.0]
    assert measure.at_budget(curve, 900.0) == [20.0, 40.0]
    assert measure.paired([1.0, 3.0], [0.0, 0.0]) == [2.0, 1.0]


def test_the_page_is_made_of_the_results():
    content = json.loads(sampling_peers.FILE.read_text())
    assert sampling_peers.PAGE.read_text() == report.markdown(content)
    for entry in content.values():
        # No setting was chosen on the signals that are reported.
        assert entry["signals"]["tuning"] > 0
        assert set(entry["tuned"]) == set(contenders.NAMED)
    text = " ".join((sampling_peers.ROOT / "docs" / "systems" / "signals.md").read_text().split())
    faces, speech = content["faces, meta-learned"]["rows"], content["speech, meta-learned"]["rows"]
    for name in ("fisher_even", "even", "error_even", "soft_mining"):
        for rows in (faces, speech):
            gain, error = rows[name]["psnr_equal"]["difference"]
            assert f"{gain:.2f} ± {error:.2f}" in text, name
    for rows, best in ((faces, "nint"), (speech, "int")):
        gain, error = measure.paired(rows[best]["psnr"]["by_signal"], rows["fisher_even"]["psnr"]["by_signal"])
        assert f"{gain:.2f} ± {error:.2f}" in text, best


def test_steps_of_every_method_are_timed():
    row = guided_steps.measure(8, 6, 16, rounds=2, block=17)
    assert row["mim / mod"] == pytest.approx(row["mim"] / row["mod"], rel=0.5)  # of rounded figures
    assert row["points"] == 36
    assert min(row[name] for name in guided_steps.METHODS_IN_TURN) > 0
