"""What each method is: which tasks it meets, what it keeps, and what never changes."""

from __future__ import annotations

import pytest
import torch
from curves import CONFIG, curve, flat, method, start, train
from torch import Tensor

from mclnf_fast.learn.methods import ER, EWC, METHODS, MIM, OML, FineTune, Method, Mod
from mclnf_fast.learn.methods.fitted import replayed_ids
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.protocol import Plan, Protocol
from mclnf_fast.tasks.coords import CoordTask

JOINT, MODULAR = {"offline", "maml_offline"}, {"mod", "mod_random", "mod_even", "mim", "mim_weight"}
STARTS = {"maml_cl": "joint", "maml_offline": "joint", "oml": "oml", **dict.fromkeys(MODULAR, "modules")}
del STARTS["mod_random"]
CATEGORIES = (
    "OL",
    "CL",
    "CL",
    "CL",
    "CL",
    "CML",
    "MOL",
    "MCL",
    "MCL",
    "MCL",
    "MCL",
    "MCL",
)


def through(given: Method, steps: int = 5) -> Method:
    for k in range(len(given.tasks)):
        train(given, steps, k)
        given.finish(k)
    return given


def test_every_method_has_the_parts_of_the_table():
    assert tuple(cls.category for cls in METHODS.values()) == CATEGORIES
    for name, cls in METHODS.items():
        assert (cls.joint, cls.modular) == (name in JOINT, name in MODULAR)
        assert cls.initialization == STARTS.get(name, "random")


@pytest.mark.parametrize("name", METHODS)
def test_everything_begins_bit_equal_at_the_start(name):
    given = method(METHODS[name])
    for k in range(len(given.tasks)):
        given.begin(k)
        if k == 0 or METHODS[name].modular:
            for p, shared in zip(given.params, start()):
                assert all(torch.equal(p[s], shared[0]) for s in range(2))
        train(given, 3, k)
        given.finish(k)
        assert not torch.equal(flat(given.params_of(k)), flat(p.repeat(2, *[1] * (p.dim() - 1)) for p in start()))


@pytest.mark.parametrize("cls", [Mod, MIM])
def test_modules_are_never_touched_again_and_forget_exactly_nothing(cls):
    given = train(method(cls), 5, 0)
    given.finish(0)
    kept = [p.clone() for p in given.params_of(0)]
    quality = given.tasks[0].evaluate(given.params_of(0))
    train(given, 5, 1)
    given.finish(1)
    assert all(torch.equal(a, b) for a, b in zip(kept, given.params_of(0)))
    assert torch.equal(given.tasks[0].evaluate(given.params_of(0)), quality)
    assert not torch.equal(flat(given.params_of(1)), flat(kept))


def test_modules_do_not_depend_on_earlier_tasks():
    """Module 2 after task 1 has the bits of one that learned task 2 alone."""
    whole, alone = through(method(Mod)), method(Mod)
    train(alone, 5, 1)
    assert torch.equal(flat(whole.params_of(1)), flat(alone.params))


@pytest.mark.parametrize("name", ["finetune", "er", "ewc", "maml_cl", "oml"])
def test_one_network_goes_on_and_answers_for_all_tasks(name):
    given = train(method(METHODS[name]), 5, 0)
    given.finish(0)
    before = flat(given.params_of(0)).clone()
    given.begin(1)
    assert torch.equal(flat(given.params), before)
    train(given, 3, 1)
    assert not torch.equal(flat(given.params_of(0)), before)
    assert torch.equal(flat(given.params_of(0)), flat(given.params_of(1)))


def test_mim_without_fisher_information_is_mod_bit_for_bit():
    plain, same, other = (through(method(cls, use), 7) for cls, use in ((Mod, "none"), (MIM, "none"), (MIM, "sample")))
    for k in range(2):
        assert torch.equal(flat(plain.params_of(k)), flat(same.params_of(k)))
        assert not torch.equal(flat(plain.params_of(k)), flat(other.params_of(k)))


@pytest.mark.parametrize("fast_layers", [1, 2])
def test_oml_trains_its_last_layers_alone(fast_layers):
    given = through(method(OML, fast_layers=fast_layers))
    for i, (p, shared) in enumerate(zip(given.params, start())):
        slow = i % 3 < 3 - fast_layers  # three weights, three biases
        assert all(torch.equal(p[s], shared[0]) for s in range(2)) == slow


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """The task and the batch's values of every loss."""
    found: list[tuple[str, Tensor]] = []
    real = CoordTask.loss

    def loss(self, params, batch, *rest):
        found.append((self.name, batch[1]))
        return real(self, params, batch, *rest)

    monkeypatch.setattr(CoordTask, "loss", loss)
    return found


def numbered(k: int) -> CoordTask:
    """Task k, whose values all are k."""
    task = curve(k)
    return CoordTask(task.name, task.x, torch.full_like(task.y, float(k)), task.spec, "reference")


def test_replay_draws_from_its_memory_after_the_first_task_only(monkeypatch):
    losses = recorded(monkeypatch)
    er = through(ER([numbered(0), numbered(1), numbered(2)], start(), CONFIG, 0), 40)
    new, old = losses[:40], losses[40:]
    assert all(bool((y == 0).all()) for _, y in new)
    assert all(y.shape[1] == CONFIG.batch for _, y in new)
    assert len(old) == 2 * 40
    for task, batches in ((1, old[:40]), (2, old[40:])):
        both = torch.stack([y for _, y in batches])
        assert both.shape[2] == 2 * CONFIG.batch
        assert bool((both[:, :, : CONFIG.batch] == task).all())
        seen = both[:, :, CONFIG.batch :]
        assert set(seen.unique().tolist()) == {float(k) for k in range(task)}
    assert len(er.memory) == CONFIG.memory


def test_replays_first_task_is_fine_tuning():
    one, two = train(method(ER), 6), train(method(FineTune), 6)
    assert torch.equal(flat(one.params), flat(two.params))
    one.finish(0)
    two.finish(0)
    assert not torch.equal(flat(train(one, 1, 1).params), flat(train(two, 1, 1).params))


def test_consolidation_of_strength_zero_is_fine_tuning_bit_for_bit():
    plain, zero = through(method(FineTune)), through(method(EWC, ewc_lam=0.0))
    assert torch.equal(flat(plain.params), flat(zero.params))


def test_a_method_takes_the_gradient_of_each_signals_own_mean_loss():
    given = method(FineTune)
    expected = tuple(p.detach().clone().requires_grad_() for p in given.params)
    task, optimizer = given.tasks[0], torch.optim.Adam(expected, lr=CONFIG.lr)
    given.begin(0)
    for step in range(4):
        batch, weights = given.draw(0, step, given.generator(0, step))
        assert weights is None
        optimizer.param_groups[0]["lr"] = given.rate(step)
        optimizer.zero_grad()
        task.loss(expected, batch).sum().backward()
        optimizer.step()
        given.step(0, step)
    for a, b in zip(given.params, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("name", METHODS)
def test_the_first_steps_from_a_learned_start_are_sgd(name, power, monkeypatch):
    kinds: list[tuple[str, float]] = []
    real = BankOptimizer.step

    def step(self, grads=None):
        kinds.append((self.kind, float(self.lr[0])))
        real(self, grads)

    monkeypatch.setattr(BankOptimizer, "step", step)
    given = train(method(METHODS[name], schedule="hold", hold=2, fall=power), 7)
    warm = 0 if given.initialization == "random" else 2
    rise = [1 / 3, 2 / 3, 1.0, 1.0, 1.0] if warm else [1.0] * 7
    fall = [(2 / max(2, s + 1)) ** power for s in range(7 - warm)]
    expected = [("sgd", CONFIG.warm_lr)] * warm + [("adam", CONFIG.lr * r * f) for r, f in zip(rise, fall)]
    assert [kind for kind, _ in kinds] == [kind for kind, _ in expected]
    assert [lr for _, lr in kinds] == pytest.approx([lr for _, lr in expected])


def test_every_task_draws_samples_of_its_own(monkeypatch):
    """Step i of task k depends on the seed, k and i: without k all tasks would be learned from the same places."""
    given = method(METHODS["finetune"], warm_steps=0)
    seeds: dict[tuple[int, int], int] = {}
    for k in range(2):
        given.begin(k)
        for step in range(3):
            monkeypatch.setattr(
                given,
                "gradients",
                lambda k, step, generator: (
                    seeds.__setitem__((k, step), generator.initial_seed())
                    or [torch.zeros_like(p) for p in given.params]
                ),
            )
            given.step(k, step)
        given.finish(k)
    assert len(set(seeds.values())) == 6
    again = method(METHODS["finetune"], seed=1, warm_steps=0)
    assert again.seed != given.seed


def test_replay_counts_old_samples_as_much_as_new_ones():
    given = method(METHODS["er"], warm_steps=0)
    train(given, 5)
    given.finish(0)
    given.begin(1)
    grads = given.gradients(1, 0, torch.Generator().manual_seed(8))
    new, _ = Method.draw(given, 1, 0, torch.Generator().manual_seed(8))
    old = given.memory.take(replayed_ids(given, 1, range(1), len(given.memory))[0])
    both = given.tasks[1].loss(given.params, new) + given.tasks[1].loss(given.params, old)
    expected = torch.autograd.grad(both.sum(), given.params)
    for found, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("cls", [Mod, FineTune])
def test_a_task_is_not_evaluated_twice_under_the_same_parameters(cls, monkeypatch):
    """A finished module answers for its task after all later ones; one network has changed by then."""
    measured = []
    evaluate = CoordTask.evaluate

    def counted(self, params):
        measured.append(self.name)
        return evaluate(self, params)

    monkeypatch.setattr(CoordTask, "evaluate", counted)
    found = [curve(k) for k in range(3)]
    steps, count = 6, len(found)
    protocol = Protocol(cls, found, start(), CONFIG, Plan(steps, (0, 2, steps), curves=True), seed=0)
    while not protocol.done:
        protocol.step()
    logged = 3 * count
    assert len(measured) == logged + (0 if cls is Mod else count * (count - 1) // 2)
    for k, row in enumerate(protocol.matrix):
        assert row[k] == protocol.curves[k][steps]
        assert all(row[i] == protocol.matrix[i][i] for i in range(k)) == (cls is Mod or k == 0)
    monkeypatch.undo()
    assert protocol.matrix[-1] == [t.evaluate(protocol.params_of(k)).tolist() for k, t in enumerate(found)]
