"""Generates cars: a family of objects of one kind, no two alike, seen from all around with exact cameras."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from mclnf_fast.data.graphics.mesh import Mesh, join
from mclnf_fast.data.graphics.mesh_render import render_mesh, sample_side
from mclnf_fast.data.objects import FAR, NEAR, ObjectSets, ObjectViews, sphere_cameras
from mclnf_fast.data.procedural.cars.body import body
from mclnf_fast.data.procedural.cars.cabin import cabin
from mclnf_fast.data.procedural.cars.parts import front, rear, sides, wheels
from mclnf_fast.data.procedural.cars.plan import draw_car
from mclnf_fast.data.procedural.checks import check_count_and_seed, check_seed_and_index, check_size
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def car_mesh(seed: int, index: int) -> Mesh:
    """Return car `index` of the family `seed` as a closed mesh in the unit ball: x forward, y left, z up.

    >>> car_mesh(0, 0).closed
    True
    """
    car = draw_car(seed, index)
    parts = [*body(car), *cabin(car), *wheels(car), *front(car), *rear(car), *sides(car)]
    return join(parts).into_ball()


def render_car(seed: int, index: int, cameras: Cameras, samples: int = 4) -> Tensor:
    """Return the ground truth of a procedural car in any cameras: uint8 [V, H, W, 4], see `render_mesh`.

    Raises:
        InputError: `seed` or `index` below 0; `samples` is no square number.

    >>> render_car(0, 0, sphere_cameras(1, 8, seed=0)).shape
    torch.Size([1, 8, 8, 4])
    """
    check_seed_and_index(seed, index)
    return render_mesh(car_mesh(seed, index), cameras, samples=samples)


def procedural_cars(
    count: int,
    test: int,
    *,
    views: int = 25,
    size: int = 128,
    seed: int = 0,
    samples: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> ObjectSets:
    """Generate cars of all styles between saloon, estate, van, pick-up and sports car.

    A car lies in the unit ball; its cameras stand at random on the upper part of a sphere of radius 4 around it. Car k
    depends on `seed` and k alone, so those of a smaller count are the first of a larger one.

    Args:
        count: number of cars in total, at least 1.
        test: number of cars, the last, to test on; at least 1.
        views: views per car, at least 1.
        size: pixels of a side, at least 8.
        seed: seed of the whole family.
        samples: samples per pixel, a square number.
        progress: called with (cars done, cars in total).

    Returns:
        Sets of objects named `car_000`, `car_001`, ...; near 2, far 6.

    Raises:
        InputError: a number out of range.

    >>> cars = procedural_cars(2, 1, views=1, size=8)
    >>> cars.test[0].name, cars.test[0].images.shape
    ('car_001', torch.Size([1, 8, 8, 4]))
    """
    check_count_and_seed(count, seed)
    if not 1 <= test <= count:
        raise InputError(f"test: must be from 1 to the count {count}, was {test}")
    if views < 1:
        raise InputError(f"views: must be >= 1, was {views}")
    check_size(size, 8, 2048)
    sample_side(samples)
    cars = []
    for k in range(count):
        cameras = sphere_cameras(views, size, seed, k)
        render = functools.partial(render_car, seed, k, samples=samples)
        cars.append(ObjectViews(f"car_{k:03d}", render(cameras), cameras, render=render))
        if progress is not None:
            progress(k + 1, count)
    train = count - test
    notes = (f"{count} procedural cars of seed {seed}, {views} views each",)
    return ObjectSets("procedural cars", tuple(cars[:train]), tuple(cars[train:]), NEAR, FAR, notes)
