"""Where bleeds begin."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points
from .shapes import Vector
from .skull import Skull


def moved_inward(site: Vector, skull: Skull, depth: float) -> Vector:
    """The site moved toward the middle of its part of the head until it lies `depth` mm deep."""
    goal = np.array([0.35 * site[0], 0.6 * site[1], 10.0 if site[2] > -20 else -32.0])
    here = np.array(site)
    for _ in range(8):
        p = Points(*(np.full(1, c, np.float32) for c in here))
        missing = depth + float(skull.inner(p)[0])
        away = goal - here
        distance = float(np.linalg.norm(away))
        if missing <= 0 or distance < 1:
            break
        here = here + away * min(1.0, (missing + 0.5) / distance)
    return (float(here[0]), float(here[1]), float(here[2]))


def convexity_site(rng: np.random.Generator, skull: Skull, level: float) -> Vector:
    """A point over the convexity, at `level` of the way from the middle to the skull."""
    direction = np.array([rng.normal(), rng.normal(0, 1.0), rng.uniform(-0.2, 1.1)])
    return at_level(skull, direction, level)


def at_level(skull: Skull, direction: Array, level: float) -> Vector:
    """The point in a direction, `level` of the way from the middle to the skull, mm."""
    unit = direction / np.linalg.norm(direction)
    ray = Points(*(np.full(1, 60 * c, np.float32) for c in unit))
    s = 60 * level / float(skull.level(ray)[0])
    return (float(unit[0] * s), float(unit[1] * s), float(unit[2] * s))


def parenchymal_site(rng: np.random.Generator, skull: Skull) -> Vector:
    """Deep (hypertensive), lobar, cerebellar, pontine, or a contusion near the skull."""
    side = float(rng.choice([-1.0, 1.0]))
    where = rng.choice(
        ["deep", "lobar", "cerebellum", "stem", "contusion"], p=[0.36, 0.32, 0.1, 0.04, 0.18]
    )
    if where == "deep":
        base = (25.0, 0.0, 5.0) if rng.random() < 0.65 else (13.0, 10.0, 6.0)
        return tuple(  # type: ignore[return-value]
            float(c + rng.normal(0, 4)) * (side if i == 0 else 1.0) for i, c in enumerate(base)
        )
    if where == "lobar":
        return at_level(
            skull,
            np.array([side * rng.uniform(0.25, 1), rng.normal(0, 0.9), rng.uniform(-0.1, 1.0)]),
            float(rng.uniform(0.55, 0.85)),
        )
    if where == "cerebellum":
        return (side * float(rng.uniform(5, 34)), float(rng.uniform(38, 60)), -38.0)
    if where == "stem":
        return (float(rng.normal(0, 4)), float(rng.normal(14, 3)), float(rng.uniform(-38, -8)))
    pole = rng.random()
    if pole < 0.5:  # under the frontal lobe
        return at_level(
            skull,
            np.array([side * rng.uniform(0.1, 0.6), -1.0, rng.uniform(-0.1, 0.5)]),
            float(rng.uniform(0.8, 0.95)),
        )
    if pole < 0.8:  # temporal pole
        return (side * float(rng.uniform(40, 54)), float(rng.uniform(-22, 5)), -24.0)
    return convexity_site(rng, skull, float(rng.uniform(0.85, 0.95)))
