"""JAX: jit of vmap and grad, on as many threads as torch has."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs, Unsupported
from benchmarks.correctness import joined
from benchmarks.peers import importable, plain
from benchmarks.peers.per_sample import CHUNKS
from benchmarks.work.bank import Bank
from benchmarks.work.fisher import DAMPING, Fisher
from benchmarks.work.fitting import LR as FIT_LR
from benchmarks.work.fitting import Fit
from benchmarks.work.maml import Maml


def missing() -> str | None:
    """Return whether it imports; the first call starts its CPU client."""
    reason = importable("jax")
    if reason is None:
        _start()
    return reason


def _start() -> None:
    # XLA sizes its thread pool by the processors that the process may run on when its client is made, and has no
    # setting for it: lend it as many as torch has threads.
    import jax

    if not hasattr(os, "sched_setaffinity"):
        jax.devices("cpu")
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(before)[: torch.get_num_threads()])
        jax.devices("cpu")
    finally:
        os.sched_setaffinity(0, before)


def _array(t: Tensor) -> Any:
    import jax.numpy as jnp

    if t.dtype != torch.float32:
        raise Unsupported(f"the jax peer is written for float32, got {t.dtype}")
    return jnp.asarray(t.detach().numpy())


def _tensor(a: Any) -> Tensor:
    return torch.from_numpy(np.array(a))


def _encode(x: Any, freqs: Any) -> Any:
    import jax.numpy as jnp

    if not len(freqs):
        return x
    angles = freqs[:, None] * x[..., None, :]
    return jnp.stack((jnp.sin(angles), jnp.cos(angles)), -2).reshape(*x.shape[:-1], -1)


def _mlp(work: Bank) -> Callable[[Any, Any, Any], Any]:
    """(weights, biases, x [..., d]) of one module -> [..., out]."""
    import jax

    freqs, w0 = _array(plain.frequencies(work.spec).float()), work.spec.w0
    activate = jax.nn.relu if work.spec.activation == "relu" else lambda z: jax.numpy.sin(w0 * z)

    def evaluate(weights: Any, biases: Any, x: Any) -> Any:
        h = _encode(x, freqs)
        for k, (w, b) in enumerate(zip(weights, biases)):
            h = h @ w + b
            if k + 1 < len(weights):
                h = activate(h)
        return h

    return evaluate


def _inputs(work: Bank) -> tuple[Any, Any, Any, Any]:
    if not work.equal:
        raise Unsupported("vmap over modules needs equal shares")
    x = _array(work.x).reshape(work.modules, -1, work.x.shape[1])
    gy = _array(work.grad_y).reshape(work.modules, -1, work.grad_y.shape[1])
    return [_array(w) for w in work.weights], [_array(b) for b in work.biases], x, gy


def forward(work: Bank) -> Contender:
    """jit(vmap)."""
    import jax

    weights, biases, x, _ = _inputs(work)
    compiled = jax.jit(jax.vmap(_mlp(work)))
    return Contender(
        "jax",
        lambda: compiled(weights, biases, x).block_until_ready(),
        lambda y: {"y": _tensor(y).flatten(0, 1)},
    )


def forward_backward(work: Bank) -> Contender:
    """jit(grad(vmap))."""
    import jax

    weights, biases, x, gy = _inputs(work)
    evaluate = jax.vmap(_mlp(work))
    # x and gy are arguments: what a jit closes over is a constant to XLA, which would encode it while compiling.
    compiled = jax.jit(jax.grad(lambda w, b, x, gy: (evaluate(w, b, x) * gy).sum(), (0, 1)))
    return Contender(
        "jax",
        lambda: jax.block_until_ready(compiled(weights, biases, x, gy)),
        lambda found: joined("grads", [_tensor(g) for g in (*found[0], *found[1])]),
    )


def fisher(work: Fisher) -> Contender:
    """jit(vmap(grad)) of `work.peer_points` points of module 0, squared inside the jit; the fastest chunk is taken."""
    import jax
    import jax.numpy as jnp

    evaluate = _mlp(work)
    weights = [_array(w[0]) for w in work.weights]
    biases = [_array(b[0]) for b in work.biases]
    given = [[_array(f[0]) for f in fs] for fs in work.given]
    samples = work.peer_points // work.ray_points
    x = _array(work.x[: work.peer_points]).reshape(samples, work.ray_points, -1)
    gy = _array(work.grad_y[: work.peer_points]).reshape(samples, work.ray_points, -1)
    one = jax.grad(lambda p, x, gy: (evaluate(p[0], p[1], x) * gy).sum())

    def chunk_of(p: Any, x: Any, gy: Any) -> tuple[Any, Any, Any]:
        found = jax.vmap(one, (None, 0, 0))(p, x, gy)
        squares = jax.tree.map(jnp.square, found)
        scored = jax.tree.map(lambda s, f: (s / (f + DAMPING)).reshape(s.shape[0], -1).sum(1), squares, tuple(given))
        scores = sum(jax.tree.leaves(scored))
        if not work.sums:
            return scores, None, None
        return scores, jax.tree.map(lambda g: g.sum(0), found), jax.tree.map(lambda g: g.sum(0), squares)

    compiled = jax.jit(chunk_of)
    params = (weights, biases)

    def sweep(chunk: int) -> tuple[list[Any], Any, Any]:
        scores, total, square = [], None, None
        for k in range(0, samples, chunk):
            score, grads, squares = compiled(params, x[k : k + chunk], gy[k : k + chunk])
            scores.append(score)
            if work.sums:
                total = grads if total is None else jax.tree.map(jnp.add, total, grads)
                square = squares if square is None else jax.tree.map(jnp.add, square, squares)
        return jax.block_until_ready((scores, total, square))

    def outputs(found: tuple[list[Any], Any, Any]) -> dict[str, Tensor]:
        named = {"scores": torch.cat([_tensor(s) for s in found[0]])}
        if work.sums:
            named |= joined("grads", [_tensor(g)[None] for g in jax.tree.leaves(found[1])])
            named |= joined("fisher", [_tensor(g)[None] / samples for g in jax.tree.leaves(found[2])])
        return named

    def timed(chunk: int) -> float:
        sweep(chunk)
        begin = perf_counter()
        sweep(chunk)
        return perf_counter() - begin

    chunk = min((c for c in CHUNKS if c <= samples), key=timed, default=samples)
    note = f"{work.peer_points} of {work.points} points, {chunk} samples at a time"
    return Contender("jax", lambda: sweep(chunk), outputs, share=work.peer_points / work.points, note=note)


def maml(work: Maml) -> Contender:
    """jit of grad of a vmapped inner loop of grads."""
    import jax

    evaluate = _mlp(work)
    tasks = [_array(t) for t in work.tasks()]
    layers = len(work.weights)
    start = [_array(t[0]) for t in work.init]

    def loss(params: Any, x: Any, y: Any) -> Any:
        return ((evaluate(params[:layers], params[layers:], x) - y) ** 2).mean()

    def task(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        for _ in range(work.steps):
            found = jax.grad(loss)(params, x, y)
            params = [p - work.lr * g for p, g in zip(params, found)]
        return loss(params, query_x, query_y)

    over_tasks = jax.vmap(task, (None, 0, 0, 0, 0))
    compiled = jax.jit(jax.grad(lambda params, *tasks: over_tasks(params, *tasks).mean()))
    return Contender(
        "jax",
        lambda: jax.block_until_ready(compiled(start, *tasks)),
        lambda grads: joined("grads", [_tensor(g)[None] for g in grads]),
        note="without the outer Adam" if work.op == "meta" else "",
    )


def fit_loop(work: Fit) -> Contender:
    """Return jit(scan(vmap(grad))) with Adam, its draws inside: all steps of a call are one program."""
    import jax
    import jax.numpy as jnp

    layers = len(work.weights)
    x, target = _array(work.coordinates), _array(work.target)
    evaluate = _mlp(work)

    def gradients(theta: Any, ids: Any) -> Any:
        def loss(theta: Any, ids: Any, target: Any) -> Any:
            return ((evaluate(theta[:layers], theta[layers:], x[ids]) - target[ids]) ** 2).mean()

        return jax.vmap(jax.grad(loss))(theta, ids, target)

    def adam(state: Any, ids: Any) -> Any:
        theta, m, v, t = state
        t = t + 1
        g = gradients(theta, ids)
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
        first, second = 1 - 0.9**t, 1 - 0.999**t
        theta = [p - FIT_LR * (a / first) / (jnp.sqrt(b / second) + 1e-8) for p, a, b in zip(theta, m, v)]
        return theta, m, v, t

    def drawn(carry: Any, _: Any) -> Any:
        state, key = carry
        key, own = jax.random.split(key)
        return (adam(state, jax.random.randint(own, (work.modules, work.batch), 0, work.samples)), key), None

    def begin() -> Any:
        theta = [_array(t) for t in work.start()]
        zeros = [jnp.zeros_like(t) for t in theta]
        return theta, zeros, zeros, jnp.zeros(())

    loop = jax.jit(lambda carry: jax.lax.scan(drawn, carry, None, length=work.steps)[0])
    carry = (begin(), jax.random.PRNGKey(0))
    one = jax.jit(adam)

    def check() -> Outputs:
        state = begin()
        for ids in work.ids:
            state = one(state, jnp.asarray(ids.numpy()))
        return joined("parameters", [_tensor(t) for t in state[0]])

    return Contender("jax", lambda: jax.block_until_ready(loop(carry)), check=check)


OPS: dict[str, Callable[..., Contender]] = {
    "fit_loop": fit_loop,
    "forward": forward,
    "forward_backward": forward_backward,
    "fisher_scores": fisher,
    "fisher_all": fisher,
    "fisher_rays": fisher,
    "maml": maml,
    "meta": maml,
}
