"""The five types of bleeding: where each may lie, how large it is, how it looks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from .arrays import Array, Points, sigmoid
from .blobs import Blob
from .brain import Brain
from .canvas import Lifted, Window
from .layers import Layer
from .options import BleedType, Tissue
from .ranges import Range
from .scene import Scene
from .shapes import Vector
from .skull import Skull
from .ventricles import Ventricles
from .waves import Waves

VOLUMES = {
    BleedType.INTRAPARENCHYMAL: Range(
        0.1, 90, "mL", "textbook; log so that small ones count", True
    ),
    BleedType.INTRAVENTRICULAR: Range(
        0.3, 45, "mL", "textbook: up to a cast of the ventricles", True
    ),
    BleedType.SUBARACHNOID: Range(0.5, 40, "mL", "textbook: thin layers to filled cisterns", True),
    BleedType.SUBDURAL: Range(1.0, 150, "mL", "textbook: thin film to 150 mL chronic", True),
    BleedType.EPIDURAL: Range(0.8, 110, "mL", "textbook", True),
}
ACUTE_HU = Range(52, 82, "HU", "textbook: clotted blood 50 to 90 HU, by hematocrit")
SUBACUTE_HU = Range(32, 48, "HU", "textbook: isodense after one to three weeks")
CHRONIC_HU = Range(8, 28, "HU", "textbook: chronic subdural 0 to 30 HU")
MEMBRANE_HU = Range(32, 52, "HU", "measured: septa of chronic collections")
EDEMA_DROP_HU = Range(6, 16, "HU", "textbook: edema 5 to 20 HU below brain")
SAH_HU = Range(46, 75, "HU", "textbook: blood mixed with CSF, above grey matter")


class Bleed(ABC):
    """One bleed of one patient."""

    kind: BleedType
    volume_ml: float
    """Volume asked for, mL."""
    centre: Vector
    """A point in or near the middle, mm."""
    half_height: float
    """It reaches about this far above and below its centre, mm."""

    def push(
        self, p: Points, depth: Array, vault_depth: Array
    ) -> tuple[Array, Array, Array] | None:
        """Step from displaced to undisplaced tissue, mm, or None where it displaces nothing.

        `depth` lies below the inner surface of the skull, `vault_depth` below the vault, mm.
        """
        return None

    def widen_sulci(self, p: Points) -> Array | None:
        """mm that blood adds to the half width of sulci, or None."""
        return None

    @abstractmethod
    def paint(self, scene: Scene) -> None:
        """Add HU, tissue and bleed labels to the scene's slice."""

    def _label(self, scene: Scene, window: Window, cover: Array) -> None:
        mask = cover.mean(axis=0) > 0.5
        scene.canvas.bleeds[window.index][mask] = self.kind


def inside_skull(scene: Scene, lifted: Lifted) -> Array:
    """Cover of the braincase on a lifted window."""
    return scene.parenchyma[:, *lifted.window.index] + scene.csf[:, *lifted.window.index]


class Intraparenchymal(Bleed):
    """A hematoma in the brain, with edema around it, uneven inside, sometimes with a level."""

    kind = BleedType.INTRAPARENCHYMAL

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        small = volume_ml < 3
        radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        self.centre = _moved_inward(_parenchymal_site(rng, skull), skull, 0.85 * radius)
        lobes = 1 if small else int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
        self._blob = Blob(rng, self.centre, volume_ml, float(rng.uniform(0.05, 0.2)), lobes=lobes)
        self.half_height = 0.75 * self._blob.radius
        late = rng.random() < 0.22
        self.hu = (SUBACUTE_HU if late else ACUTE_HU).draw(rng)
        self.hu = max(self.hu, 42.0)
        self._soft = float(rng.uniform(1.5, 4.0)) if late else float(rng.uniform(0.3, 1.2))  # mm
        self._spread = float(rng.uniform(1.0, 6.0))  # HU
        self._swirl = float(rng.uniform(8, 25)) if rng.random() < 0.3 else 0.0  # HU
        self._level = rng.random() < 0.08 and not small
        self._level_at = float(rng.uniform(-0.3, 0.3)) * self._blob.radius
        self._rim = float(rng.uniform(0.08, 0.5)) * self._blob.radius + float(rng.uniform(0.5, 3))
        self._rim_drop = EDEMA_DROP_HU.draw(rng)
        self._mass = float(rng.uniform(0.35, 0.85))
        self._grain = Waves(rng, max(5.0, 0.8 * self._blob.radius), 10)
        self._eddies = Waves(rng, max(7.0, 1.1 * self._blob.radius), 8)

    def push(self, p: Points, depth: Array, vault_depth: Array) -> tuple[Array, Array, Array]:
        """Tissue gives way in all directions, less so next to the skull."""
        dx, dy, dz = self._blob.push(p, self._mass)
        damped = np.clip(depth / 14.0, 0, 1)
        return dx * damped, dy * damped, dz * damped

    def paint(self, scene: Scene) -> None:
        """Edema first, then blood over it."""
        p = scene.p
        if self._blob.far_from(p, 2 * self._rim + 2):
            return
        distance = self._blob.distance(p)
        rim = distance - self._rim * (1 + 0.35 * self._eddies.at(p))
        lifted = scene.grid.lift(rim, 1.5)
        if lifted is None:
            return
        window = lifted.window
        brain = scene.parenchyma[:, *window.index]
        soft = 1 - np.clip((lifted.middle + 2.0) / 4.0, 0, 1)
        part = scene.canvas.hu[:, *window.index]
        drop = part - self._rim_drop
        scene.canvas.blend(window, soft * brain, drop)
        edema = (soft * brain).mean(axis=0) > 0.5
        scene.canvas.tissues[window.index][edema] = Tissue.EDEMA
        self._paint_blood(scene, distance)

    def _paint_blood(self, scene: Scene, distance: Array) -> None:
        p = scene.p
        solid = np.maximum(distance, 0.6 + scene.inner)
        lifted = scene.grid.lift(solid, self._soft)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(p)
        hu = hu - self._swirl * sigmoid(4 * (self._eddies.at(p) - 0.7))
        if self._level:
            low = scene.gravity - scene.gravity_of(self.centre) - self._level_at
            hu = hu - 28.0 * sigmoid(-low / 1.2)
        field = scene.grid.values(hu, lifted.window)
        cover = np.clip(0.5 - lifted.middle / (2 * self._soft), 0, 1) * lifted.below(self._soft)
        cover = np.minimum(cover * 1.0, inside_skull(scene, lifted) + 1.0)
        scene.canvas.blend(lifted.window, cover, field, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)


class Intraventricular(Bleed):
    """Blood in the ventricles: settled with a level, or a cast of a part."""

    kind = BleedType.INTRAVENTRICULAR

    def __init__(
        self, rng: np.random.Generator, skull: Skull, ventricles: Ventricles, volume_ml: float
    ) -> None:
        self._ventricles = ventricles
        ventricles.widen(float(rng.uniform(0.0, 0.35)) * min(1.0, volume_ml / 10))
        self.hu = ACUTE_HU.draw(rng)
        self.settled = bool(rng.random() < 0.6)
        self._seat: Vector = (
            (12.0, -20.0, 12.0),
            (-12.0, -20.0, 12.0),
            (0.0, 5.0, -2.0),
            (22.0, 28.0, 12.0),
            (-22.0, 28.0, 12.0),
            (0.0, 33.0, -34.0),
        )[int(rng.integers(6))]
        self._edge = Waves(rng, 14.0, 8)
        self._grain = Waves(rng, 9.0, 8)
        self._spread = float(rng.uniform(1, 6))
        self._one_sided = float(rng.choice([-1.0, 0.0, 1.0], p=[0.25, 0.5, 0.25]))
        self._fit(volume_ml)

    def _fit(self, volume_ml: float) -> None:
        step = 3.0
        axes = (np.arange(-48, 49, step), np.arange(-50, 75, step), np.arange(-48, 42, step))
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        p = Points(*(a.astype(np.float32) for a in (x, y, z)))
        inside = self._ventricles.distance(p) < 0
        points = Points(p.x[inside], p.y[inside], p.z[inside])
        order = self._order(points, points.y)
        wanted = int(np.clip(volume_ml * 1000 / step**3, 3, 0.95 * order.size))
        chosen = np.argpartition(order, wanted - 1)[:wanted]
        self._limit = float(order[chosen].max())
        self.volume_ml = wanted * step**3 / 1000
        z_chosen = points.z[chosen]
        # The slice most likely to show it: the middle of the height where most of it lies.
        low, high = np.percentile(z_chosen, [10, 90])
        middle = chosen[np.argmin(np.abs(z_chosen - np.median(z_chosen)))]
        self.centre = (float(points.x[middle]), float(points.y[middle]), float(z_chosen.mean()))
        self.half_height = float(max(high - low, 4) / 2)

    def _order(self, q: Points, low: Array) -> Array:
        """The order in which points fill, mm: the lowest first, or those nearest a clot's seat."""
        if self.settled:
            other = 25.0 * (q.x * self._one_sided < 0)
            return np.asarray(-low + other + 0.6 * self._edge.at(q))
        d = [a - b for a, b in zip(q, self._seat, strict=True)]
        return np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) + 3.0 * self._edge.at(q)

    def paint(self, scene: Scene) -> None:
        """Fill the chosen part of the ventricles."""
        order = self._order(scene.q, scene.gravity) - self._limit
        field = np.maximum(scene.ventricles, order)
        lifted = scene.grid.lift(field, 0.0)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(scene.q)
        value = scene.grid.values(hu, lifted.window)
        cover = lifted.below()
        scene.canvas.blend(lifted.window, cover, value, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)


class Subarachnoid(Bleed):
    """Blood in sulci, fissures and cisterns: thin, following the brain's surface."""

    kind = BleedType.SUBARACHNOID

    def __init__(
        self, rng: np.random.Generator, skull: Skull, brain: Brain, volume_ml: float
    ) -> None:
        self.volume_ml = volume_ml
        self.basal = bool(rng.random() < 0.5)
        if self.basal:
            self.centre = (float(rng.normal(0, 12)), float(rng.normal(-10, 8)), -12.0)
        else:
            self.centre = _convexity_site(rng, skull, 0.88)
        self.hu = SAH_HU.draw(rng)
        self._widen = float(rng.uniform(0.35, 1.1))  # mm
        self._patch = Waves(rng, float(np.clip(9 * volume_ml ** (1 / 3), 14, 40)), 10)
        self._grain = Waves(rng, 12.0, 8)
        self._radius = self._fit(rng, brain)
        self.half_height = 0.6 * self._radius

    def _fit(self, rng: np.random.Generator, brain: Brain) -> float:
        """The radius, mm, within which the subarachnoid space holds the volume asked for.

        Points scattered evenly over radii find the share of CSF around the centre.
        """
        samples, largest = 6000, 75.0
        far = np.sort(rng.uniform(0, largest, samples))
        unit = rng.normal(size=(3, samples))
        unit *= far / np.linalg.norm(unit, axis=0)
        p = Points(*((u + c).astype(np.float32) for u, c in zip(unit, self.centre, strict=True)))
        fluid = brain.is_fluid(p, self._widen)
        volume = np.cumsum(fluid * 4 * np.pi * far**2) * (largest / samples) / 1000  # mL
        order = int(np.searchsorted(volume, self.volume_ml))
        self.volume_ml = min(self.volume_ml, float(volume[-1]))
        return float(max(far[min(order, samples - 1)], 5.0))

    def _region(self, p: Points) -> Array:
        """Below 0 where blood has spread, mm."""
        d = [a - b for a, b in zip(p, self.centre, strict=True)]
        far = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
        return far - self._radius * (1 + 0.25 * self._patch.at(p))

    def widen_sulci(self, p: Points) -> Array:
        """Blood holds sulci open."""
        return self._widen * sigmoid(-self._region(p) / 2.0)

    def paint(self, scene: Scene) -> None:
        """Replace CSF by blood within the region."""
        lifted = scene.grid.lift(self._region(scene.p), 2.0)
        if lifted is None:
            return
        window = lifted.window
        soft = 1 - np.clip((lifted.middle + 2.0) / 4.0, 0, 1)
        cover = scene.csf[:, *window.index] * soft
        value = scene.grid.values(self.hu + 4.0 * self._grain.at(scene.p), window)
        scene.canvas.blend(window, cover, value, Tissue.BLOOD)
        self._label(scene, window, cover)


class ExtraAxial(Bleed):
    """Blood between skull and brain: shared by subdural and epidural collections."""

    _layer: Layer
    _reach: float
    _strength: float

    def push(self, p: Points, depth: Array, vault_depth: Array) -> tuple[Array, Array, Array]:
        """The brain under the collection moves away from the skull, and less the deeper it lies."""
        thick = np.maximum(self._layer.at(p), 0) * self._strength
        step = thick * np.exp(-np.maximum(vault_depth - thick, 0) / self._reach)
        out = self._layer.skull.outward(p)
        return out.x * step, out.y * step, out.z * step


class Epidural(ExtraAxial):
    """A lens between skull and dura."""

    kind = BleedType.EPIDURAL

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        side = rng.choice([-1.0, 1.0])
        direction = np.array(
            [side * rng.uniform(0.55, 1.0), rng.uniform(-0.75, 0.6), rng.uniform(-0.2, 0.7)]
        )
        thickness = float(np.clip(4.6 * volume_ml ** (1 / 3) * rng.uniform(0.75, 1.2), 2.5, 40))
        self._layer = Layer(rng, skull, direction, thickness, volume_ml, lens=True)
        self.centre = self._layer.centre
        self.half_height = 0.65 * self._layer.extent
        self.hu = ACUTE_HU.draw(rng)
        self._spread = float(rng.uniform(1, 5))
        self._swirl = float(rng.uniform(8, 25)) if rng.random() < 0.35 else 0.0
        self._grain = Waves(rng, 14.0, 10)
        self._eddies = Waves(rng, 20.0, 8)
        self._reach = float(rng.uniform(18, 45))
        self._strength = 1.0

    def paint(self, scene: Scene) -> None:
        """Fill the lens up to the bone."""
        p = scene.p
        lifted = scene.grid.lift(np.maximum(-scene.vault - self._layer.at(p), scene.inner - 2), 0.0)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(p)
        hu = hu - self._swirl * sigmoid(4 * (self._eddies.at(p) - 0.6))
        cover = lifted.below()
        value = scene.grid.values(hu, lifted.window)
        scene.canvas.blend(lifted.window, cover, value, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)


def _moved_inward(site: Vector, skull: Skull, depth: float) -> Vector:
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


def _convexity_site(rng: np.random.Generator, skull: Skull, level: float) -> Vector:
    """A point over the convexity, at `level` of the way from the middle to the skull."""
    direction = np.array([rng.normal(), rng.normal(0, 1.0), rng.uniform(-0.2, 1.1)])
    return _at_level(skull, direction, level)


def _at_level(skull: Skull, direction: Array, level: float) -> Vector:
    unit = direction / np.linalg.norm(direction)
    ray = Points(*(np.full(1, 60 * c, np.float32) for c in unit))
    s = 60 * level / float(skull.level(ray)[0])
    return (float(unit[0] * s), float(unit[1] * s), float(unit[2] * s))


def _parenchymal_site(rng: np.random.Generator, skull: Skull) -> Vector:
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
        return _at_level(
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
        return _at_level(
            skull,
            np.array([side * rng.uniform(0.1, 0.6), -1.0, rng.uniform(-0.1, 0.5)]),
            float(rng.uniform(0.8, 0.95)),
        )
    if pole < 0.8:  # temporal pole
        return (side * float(rng.uniform(40, 54)), float(rng.uniform(-22, 5)), -24.0)
    return _convexity_site(rng, skull, float(rng.uniform(0.85, 0.95)))
