"""Meta-learn an initialization by MAML: after it, a few steps fit an image that was never seen.

    python examples/meta_learn.py            # some minutes
    python examples/meta_learn.py --quick    # some seconds

A meta-batch is a bank: a module per image, all from the one initialization, so that the outer gradient is exact.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.data import procedural_faces
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import MAML, drawn_loss
from mclnf_fast.tasks import CoordTask, whole_loss

INNER_STEPS = 4


def make_task(images: Tensor, spec: mf.FieldSpec) -> CoordTask:
    """Return images [S, H, W, 3] as one task of S modules that share their coordinates."""
    rows, columns = (torch.linspace(-1, 1, n) for n in images.shape[1:3])
    x = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return CoordTask("images", x, images.flatten(1, 2), spec)


def fit(learner: MAML, task: CoordTask) -> float:
    """Return the mean PSNR in dB over a task's images after the inner steps from the learner's initialization."""
    params = learner.adapt(learner.clone(task.modules), whole_loss(task), create_graph=False)
    return float(task.evaluate(params).mean())


def main(quick: bool = False) -> dict[str, float]:
    """Meta-learn and return the PSNR on unseen images from a random and from the learned initialization."""
    size, count, outer_steps, batch = (24, 16, 60, 128) if quick else (48, 48, 600, 256)
    generator = torch.Generator().manual_seed(0)
    faces = procedural_faces(count, size, test=4, validation=0)
    spec = mf.FieldSpec(2, 3, width=64, hidden_layers=3, activation="sine(30)")
    test = make_task(faces.test.values, spec)

    start = initial_parameters(spec, generator=generator)
    learner = MAML(start, inner_lr=1e-2, inner_steps=INNER_STEPS, outer_lr=1e-3, grad_clip=1.0)
    random = fit(learner, test)
    for step in range(outer_steps):
        chosen = torch.randperm(len(faces.train.values), generator=generator)[:4]
        task = make_task(faces.train.values[chosen], spec)
        # The support loss of each inner step and the query loss are over fresh samples of the same images.
        info = learner.step(drawn_loss(task, batch, generator), modules=task.modules)
        if (step + 1) % (outer_steps // 3) == 0:
            print(f"outer step {step + 1}: loss {float(info['loss']):.4f} after {INNER_STEPS} inner steps")
    learned = fit(learner, test)
    print(f"unseen images after {INNER_STEPS} steps: random {random:.2f} dB, meta-learned {learned:.2f} dB")
    return {"random": random, "learned": learned}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds")
    main(parser.parse_args().quick)
