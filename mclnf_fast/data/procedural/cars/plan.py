"""Draws the plan of a procedural car from a seed: all numbers of one car. Lengths are meters, positions along the car
shares of its length from the nose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mclnf_fast.data.graphics.mesh import to_linear

# The probability of each style, and its mean numbers in the order of SHAPE.
STYLES = {
    "saloon": (0.22, (4.65, 1.82, 1.44, 0.17, 0.330, 0.185, 0.795, 0.74, 0.94, 0.96, 0.98, 0.30, 0.455, 0.69, 0.845)),
    "hatchback": (0.20, (4.05, 1.76, 1.48, 0.17, 0.320, 0.190, 0.825, 0.76, 0.96, 0.98, 0.98, 0.26, 0.42, 0.83, 0.965)),
    "estate": (0.14, (4.75, 1.82, 1.47, 0.17, 0.330, 0.185, 0.780, 0.75, 0.94, 0.96, 0.96, 0.29, 0.43, 0.885, 0.975)),
    "suv": (0.16, (4.60, 1.90, 1.73, 0.24, 0.370, 0.190, 0.800, 0.92, 1.07, 1.10, 1.10, 0.285, 0.40, 0.865, 0.970)),
    "van": (0.08, (4.80, 1.92, 1.98, 0.20, 0.335, 0.180, 0.800, 0.86, 1.08, 1.12, 1.12, 0.150, 0.285, 0.945, 0.985)),
    "pick-up": (0.08, (5.20, 1.90, 1.78, 0.27, 0.385, 0.180, 0.790, 0.98, 1.10, 1.12, 1.10, 0.285, 0.385, 0.565, 0.60)),
    "sports": (0.12, (4.40, 1.90, 1.24, 0.12, 0.335, 0.200, 0.805, 0.58, 0.78, 0.82, 0.88, 0.34, 0.535, 0.645, 0.88)),
}  # fmt: skip
SHAPE = (
    "length", "width", "height", "clearance", "wheel", "front_axle", "rear_axle", "nose", "hood", "belt", "deck",
    "screen_base", "screen_top", "roof_end", "rear_base",
)  # fmt: skip
SPREAD = (0.035, 0.02, 0.025, 0.08, 0.035, 0.03, 0.012, 0.03, 0.015, 0.012, 0.012, 0.035, 0.02, 0.015, 0.006)
BLENDS = {
    "saloon": ("hatchback", "sports", "estate"), "hatchback": ("saloon", "suv", "estate"),
    "estate": ("saloon", "suv", "hatchback"), "suv": ("estate", "van", "hatchback"), "van": ("suv",),
    "pick-up": (), "sports": ("saloon",),
}  # fmt: skip
# sRGB, and relative frequency.
PAINTS = (
    ((0.90, 0.90, 0.89), 3), ((0.70, 0.72, 0.74), 3), ((0.38, 0.40, 0.43), 2), ((0.18, 0.18, 0.20), 2),
    ((0.76, 0.10, 0.10), 3), ((0.50, 0.08, 0.13), 1), ((0.12, 0.28, 0.66), 2), ((0.13, 0.20, 0.42), 1),
    ((0.42, 0.64, 0.84), 1), ((0.12, 0.44, 0.29), 1), ((0.55, 0.66, 0.36), 1), ((0.95, 0.76, 0.14), 2),
    ((0.92, 0.46, 0.12), 2), ((0.82, 0.74, 0.60), 1), ((0.48, 0.33, 0.22), 1), ((0.12, 0.52, 0.55), 1),
    ((0.46, 0.24, 0.52), 1),
)  # fmt: skip


@dataclass(frozen=True)
class CarPlan:
    """One car. Colors are linear RGB [3]; the heights `nose` to `deck` are above the ground.

    >>> draw_car(0, 0).doors in (1, 2)
    True
    """

    style: str
    length: float
    width: float
    height: float
    clearance: float
    wheel: float  # radius
    front_axle: float
    rear_axle: float
    nose: float  # height of the hood's front edge
    hood: float  # height at which the hood meets the windshield
    belt: float  # lower edge of the cabin
    deck: float  # height of the trunk's lid
    screen_base: float
    screen_top: float
    roof_end: float
    rear_base: float
    taper: float  # how much the roof is narrower than the belt, a share
    round_nose: float  # meters over which the nose is rounded
    doors: int  # on each side
    spokes: int
    paint: np.ndarray
    roof: np.ndarray
    trim: np.ndarray  # bumpers and sills
    glass: np.ndarray
    rim: np.ndarray
    stripe: np.ndarray | None
    dark_pillars: bool
    rails: bool
    spoiler: bool
    sign: bool
    blind_van: bool  # no windows behind the front doors


def draw_car(seed: int, index: int) -> CarPlan:
    """Return car `index` of the family `seed`: the numbers of a style, partly those of a related one, and noise.

    >>> draw_car(0, 1).style in STYLES
    True
    """
    rng = np.random.default_rng([seed, index, 0])
    names = list(STYLES)
    odds = np.array([STYLES[name][0] for name in names])
    style = names[int(rng.choice(len(names), p=odds / odds.sum()))]
    numbers = np.array(STYLES[style][1])
    near = BLENDS[style]
    share, choice = rng.random(), int(rng.integers(0, 1 << 16))
    if near:
        # Blends make a continuous family; pure styles would be seven clusters, and the mean of them no car.
        numbers = numbers + 0.4 * share**1.5 * (np.array(STYLES[near[choice % len(near)]][1]) - numbers)
    numbers = numbers * (1.0 + np.array(SPREAD) * rng.normal(size=len(SPREAD)).clip(-2.0, 2.0))
    shape = dict(zip(SHAPE, numbers.tolist(), strict=True))
    _settle(shape)

    paint, roof, trim, rim, stripe = _paints(rng, style)
    chance = rng.random(8)
    blind = style == "van" and chance[0] < 0.4
    two_doors = style == "sports" or (style == "pick-up" and chance[1] < 0.6) or blind
    return CarPlan(
        style=style,
        **shape,
        taper=float({"van": 0.10, "suv": 0.17, "pick-up": 0.16}.get(style, 0.22) + 0.03 * rng.normal()),
        round_nose=float({"sports": 0.42, "pick-up": 0.14, "van": 0.30}.get(style, 0.24) * rng.uniform(0.8, 1.2)),
        doors=1 if two_doors or (style == "hatchback" and chance[2] < 0.3) else 2,
        spokes=int(rng.choice([5, 6, 8])),
        paint=paint,
        roof=roof,
        trim=trim,
        glass=np.array((0.045, 0.062, 0.080)) * rng.uniform(0.7, 1.4),
        rim=rim,
        stripe=stripe,
        dark_pillars=bool(chance[3] < 0.35),
        rails=bool(style in ("estate", "suv") and chance[4] < 0.6),
        spoiler=bool((style == "sports" and chance[5] < 0.6) or (style in ("hatchback", "suv") and chance[5] < 0.4)),
        sign=bool(style == "saloon" and chance[6] < 0.15),
        blind_van=bool(blind),
    )


def _settle(shape: dict[str, float]) -> None:
    """Adjust numbers that noise has set against each other, so that every car can be built."""
    shape["hood"] = min(shape["hood"], shape["belt"])
    shape["nose"] = min(shape["nose"], shape["hood"] - 0.05)
    # A wheel's arch must end below the wing above it.
    shape["wheel"] = min(shape["wheel"], 0.5 * (shape["nose"] + shape["hood"]) / 2.0 - 0.045)
    shape["height"] = max(shape["height"], shape["belt"] + 0.34)
    shape["rear_base"] = min(shape["rear_base"], 0.988)
    shape["screen_top"] = max(shape["screen_top"], shape["screen_base"] + 0.06)
    shape["roof_end"] = min(max(shape["roof_end"], shape["screen_top"] + 0.08), shape["rear_base"] - 0.015)
    gap = (shape["wheel"] + 0.06) / shape["length"]
    shape["front_axle"] = max(shape["front_axle"], gap + 0.05)
    shape["rear_axle"] = min(shape["rear_axle"], 1.0 - gap - 0.05)


def _paints(
    rng: np.random.Generator, style: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return linear RGB of the body, the roof, the trim and the rims, and a stripe or None."""
    odds = np.array([frequency for _, frequency in PAINTS], float)
    main, accent = (int(k) for k in rng.choice(len(PAINTS), 2, p=odds / odds.sum()))
    shift = 0.04 * rng.normal(size=3)
    chance = rng.random(4)

    def paint(k: int) -> np.ndarray:
        return linear(np.clip(np.array(PAINTS[k][0]) + shift, 0.08, 0.93))

    body = paint(main)
    black, white = linear(np.array((0.10, 0.10, 0.11))), linear(np.array((0.90, 0.90, 0.90)))
    contrast = white if body.mean() < 0.4 else black
    roof = contrast if chance[0] < (0.3 if style in ("hatchback", "suv", "sports") else 0.08) else body
    plastic = linear(np.array((0.20, 0.20, 0.21)))
    trim = plastic if chance[1] < (0.75 if style in ("suv", "pick-up", "van") else 0.3) else 0.85 * body
    rim = linear(np.array((0.74, 0.75, 0.77)) if chance[2] < 0.75 else np.array((0.30, 0.31, 0.33)))
    striped = chance[3] < {"sports": 0.45, "hatchback": 0.12}.get(style, 0.0)
    return body, roof, trim, rim, (paint(accent) if main != accent and accent < 4 else contrast) if striped else None


def linear(srgb: np.ndarray) -> np.ndarray:
    """Return sRGB in [0, 1] as linear RGB.

    >>> linear(np.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    return to_linear(torch.from_numpy(srgb)).numpy()
