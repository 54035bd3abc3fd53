"""`mclnf-fast` with a city of a few small pictures; by the environment, it saves at each step and dies by SIGKILL.

TINY_KILL_AT = n: the process kills itself in the middle of its n-th atomic write (the bytes are on disk under their
temporary name, and not yet in place).
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import sys
from typing import Any

OPTIONS = [
    "--steps", "10", "--adapt.batch", "24", "--width", "8", "--hidden-layers", "1", "--frequencies", "2",
    "--samples-per-ray", "4", "--fim.refresh", "3", "--tile", "4", "--threads", "1",
    "--meta.steps", "3", "--meta.inner-steps", "2", "--meta.batch", "8",
    "--meta-joint.steps", "3", "--meta-joint.inner-steps", "2", "--meta-joint.batch", "8",
    "--adapt.fast-layers", "1", "--adapt.memory", "40",
]  # fmt: skip
PLAN = {
    "width": 16, "height": 12, "samples": 4, "train": 3, "test": 1, "meta_districts": 1, "meta_train": 2,
    "meta_test": 1, "city": 1, "blocks": (2, 1),
}  # fmt: skip


OTHERS = ("offline", "er", "ewc", "maml_cl", "maml_offline", "oml")


def results(run: pathlib.Path) -> dict[str, Any]:
    """What of metrics.json must be the same in two runs: all but times, the command and the folder."""
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("seconds_total", "phases", "command"):
        del metrics[key]
    for key in ("out", "resume"):
        del metrics["config"]["run"][key]
    for part in (*metrics["methods"].values(), *metrics.get("initializations", {}).values()):
        for key in [k for k in part if k.endswith("seconds")]:
            del part[key]
    metrics.get("comparison", {}).pop("mim_over_mod_seconds", None)
    return metrics


class OneStep:
    """In the place of `run.Pace`: a call makes one step, so that there is a state between any two."""

    most = 1

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def shrink() -> None:
    """A small procedural city, and a state on disk after every step."""
    from mclnf_fast.data import write_city
    from mclnf_fast.systems.city import data as city_data
    from mclnf_fast.systems.common import run

    def tiny(*, seed: int = 0, progress: object = None, **_: object) -> object:
        return write_city(seed=seed, progress=progress, **PLAN)

    city_data.write_city = tiny
    run.SAVE_EVERY = 0.0
    run.Pace = OneStep  # type: ignore[misc, assignment]


def die_at(count: int) -> None:
    """SIGKILL in the middle of the count-th atomic write."""
    real, done = os.replace, [0]

    @functools.wraps(real)
    def replace(*args: object, **options: object) -> None:
        done[0] += 1
        if done[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **options)

    os.replace = replace


if __name__ == "__main__":
    shrink()
    if "TINY_KILL_AT" in os.environ:
        die_at(int(os.environ["TINY_KILL_AT"]))
    from mclnf_fast.cli import main

    sys.exit(main(sys.argv[1:]))
