"""Draws the numbers of one person and of one pose for a procedural portrait, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SKINS = (
    (0.95, 0.78, 0.68),
    (0.91, 0.72, 0.60),
    (0.85, 0.64, 0.50),
    (0.74, 0.53, 0.39),
    (0.55, 0.37, 0.26),
    (0.40, 0.27, 0.19),
)
HAIRS = (
    (0.07, 0.06, 0.06),
    (0.16, 0.10, 0.07),
    (0.30, 0.18, 0.10),
    (0.48, 0.31, 0.16),
    (0.74, 0.58, 0.34),
    (0.58, 0.56, 0.54),
    (0.80, 0.79, 0.77),
    (0.45, 0.18, 0.09),
)
IRISES = ((0.26, 0.16, 0.09), (0.36, 0.25, 0.13), (0.30, 0.40, 0.52), (0.34, 0.45, 0.33), (0.42, 0.47, 0.50))
BACKDROPS = (
    (0.36, 0.47, 0.55),
    (0.47, 0.52, 0.60),
    (0.28, 0.36, 0.46),
    (0.52, 0.52, 0.54),
    (0.42, 0.50, 0.47),
    (0.55, 0.48, 0.44),
)
CLOTHS = (
    (0.10, 0.11, 0.15),
    (0.16, 0.19, 0.28),
    (0.27, 0.28, 0.30),
    (0.45, 0.14, 0.15),
    (0.17, 0.30, 0.27),
    (0.62, 0.57, 0.50),
    (0.33, 0.20, 0.32),
    (0.20, 0.33, 0.50),
)
SUITING = ("plain", "plain", "pinstripe", "herringbone", "plaid")
TOPS = ("plain", "plaid", "dots", "knit")
STYLES = ("short", "short", "side", "side", "long", "long", "bob", "bald", "curly")


@dataclass(frozen=True)
class Person:
    """The properties that stay the same while a person moves; lengths in units of half a face frame.

    >>> draw_person(0, 0).style in STYLES
    True
    """

    seed: int
    skin: np.ndarray  # [3]
    hair: np.ndarray  # [3]
    iris: np.ndarray  # [3]
    backdrop: np.ndarray  # [3]
    cloth: np.ndarray  # [3]
    second: np.ndarray  # [3], shirt, or the other color of a pattern
    tie: np.ndarray  # [3]
    style: str
    pattern: str
    suit: bool
    glasses: bool
    beard: float  # 0 none, 0.4 shaved, 1 full
    age: float  # 0 to 1: lines and sagging
    width: float
    jaw: float  # exponent of the lower outline: larger is squarer
    chin: float
    eye_size: float
    eye_gap: float
    brow: float  # thickness
    arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip: float
    lipstick: float
    hairline: float
    part: float
    fringe: float
    makeup: float
    freckles: float


@dataclass(frozen=True)
class Pose:
    """The position of a person in one picture.

    >>> Pose(smile=1.0).yaw
    0.0
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    roll: float = 0.0  # radians
    yaw: float = 0.0  # -1 to 1, about a sixth of a turn at the ends
    pitch: float = 0.0
    smile: float = 0.5
    open: float = 0.0  # of the mouth, 0 to 1
    blink: float = 0.0  # 1: eyes shut
    gaze: float = 0.0
    light: tuple[float, float] = (-0.5, -0.5)  # direction of the key light: right and down positive
    ambient: float = 0.4
    pan: tuple[float, float] = (0.0, 0.0)  # shift of the backdrop


def draw_person(seed: int, index: int) -> Person:
    """Return person `index` of the family `seed`; the same two numbers give the same person.

    >>> draw_person(0, 1).skin.shape
    (3,)
    """
    rng = np.random.default_rng([seed, index, 1])

    def pick(colors: tuple[tuple[float, float, float], ...], spread: float) -> np.ndarray:
        color = np.array(colors[int(rng.integers(len(colors)))]) * rng.uniform(1 - spread, 1 + spread)
        return np.clip(color + rng.uniform(-0.3, 0.3, 3) * spread * 0.4, 0.02, 0.98).astype(np.float32)

    style = STYLES[int(rng.integers(len(STYLES)))]
    is_soft = style in ("long", "bob") or rng.random() < 0.15  # finer features, no beard, more color on the lips
    skin = pick(SKINS, 0.05)
    # Combinations that are rare in photographs are left out: the family stands in for a data set of them.
    hairs = HAIRS if skin[0] > 0.7 else HAIRS[:3] + HAIRS[5:6]
    shirts = ((0.93, 0.93, 0.94), (0.80, 0.86, 0.94), (0.93, 0.88, 0.84))
    suit = bool(rng.random() < (0.35 if is_soft else 0.75))
    return Person(
        seed=int(rng.integers(1 << 30)),
        skin=skin,
        hair=pick(hairs, 0.15),
        iris=pick(IRISES, 0.1),
        backdrop=pick(BACKDROPS, 0.12),
        cloth=pick(CLOTHS, 0.2),
        second=pick(shirts if suit else CLOTHS + shirts, 0.05),
        tie=pick(CLOTHS[1:], 0.3) * np.float32(1.2),
        style=style,
        pattern=str(rng.choice(SUITING if suit else TOPS)),
        suit=suit,
        glasses=bool(rng.random() < 0.25),
        beard=0.0 if is_soft else float(rng.choice([0.05, 0.2, 0.4, 1.0], p=[0.35, 0.3, 0.2, 0.15])),
        age=float(rng.uniform(0.05, 1.0) ** (1.4 if is_soft else 1.0)),
        width=rng.uniform(0.41, 0.45) if is_soft else rng.uniform(0.42, 0.475),
        jaw=rng.uniform(1.75, 2.05) if is_soft else rng.uniform(1.9, 2.5),
        chin=rng.uniform(0.63, 0.70),
        eye_size=rng.uniform(0.105, 0.120) if is_soft else rng.uniform(0.090, 0.108),
        eye_gap=rng.uniform(0.195, 0.220),
        brow=rng.uniform(0.022, 0.030) if is_soft else rng.uniform(0.030, 0.046),
        arch=rng.uniform(0.02, 0.05),
        nose_width=rng.uniform(0.075, 0.095) if is_soft else rng.uniform(0.09, 0.12),
        nose_length=rng.uniform(0.20, 0.26),
        mouth_width=rng.uniform(0.17, 0.22),
        lip=rng.uniform(0.035, 0.055) if is_soft else rng.uniform(0.022, 0.038),
        lipstick=rng.uniform(0.3, 1.0) if is_soft else rng.uniform(0.0, 0.15),
        hairline=rng.uniform(-0.50, -0.43),
        part=float(rng.choice([-1.0, 1.0])) * rng.uniform(0.1, 0.25),
        fringe=rng.uniform(0.0, 1.0) ** 2,
        makeup=rng.uniform(0.2, 0.8) if is_soft else 0.0,
        freckles=rng.uniform(0.0, 1.0) ** 3,
    )


def draw_pose(seed: int, index: int) -> Pose:
    """Return the pose of person `index` in a single portrait.

    >>> draw_pose(0, 1) == draw_pose(0, 1)
    True
    """
    rng = np.random.default_rng([seed, index, 2])
    side = float(rng.choice([-1.0, 1.0]))
    return Pose(
        x=rng.uniform(-0.05, 0.05),
        y=rng.uniform(-0.18, -0.06),
        scale=rng.uniform(1.04, 1.20),
        roll=rng.uniform(-0.09, 0.09),
        yaw=rng.uniform(-0.6, 0.6),
        pitch=rng.uniform(-0.3, 0.3),
        smile=rng.uniform(0.15, 1.0),
        open=max(0.0, rng.uniform(-0.5, 0.7)),
        gaze=rng.uniform(-0.3, 0.3),
        light=(side * rng.uniform(0.25, 0.9), rng.uniform(-0.8, -0.35)),
        ambient=rng.uniform(0.30, 0.5),
    )
