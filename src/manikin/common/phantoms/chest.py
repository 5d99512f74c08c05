"""A chest seen from the front, as an X-ray sees it: the length of tissue, air and bone along each ray.

Coordinates: `x` to the image's right (the patient's left), `v` downwards, both in units of half the inner width of
the rib cage, `v` divided by the body's aspect. The apex of the lungs lies near v = -1, the diaphragm near 0.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manikin.common.images import Float32Array
from manikin.common.phantoms.anatomy import ChestAnatomy
from manikin.common.phantoms.fields import Draws, band, dome, edge, mesh, ramp

SOFT_DEPTH = 2.6
LUNG_SHARE = 0.72


@dataclass
class Chest:
    """One chunk of chests: maps (n, *grid), float32.

    Args:
        x, v: coordinates of each ray.
        pixel: extent of a pixel in the same units.
        depth_inside: how far inside the lung field, in the same units; negative outside.
        tissue: soft tissue along the ray, without lungs, heart and bone.
        air: the length of lung along the ray, as if it were all air.
        lung_density: share of soft tissue in the lung, (n, 1, 1).
        heart: heart and great vessels along the ray.
        bone: bone along the ray.
        vessels: hila and vessels along the ray.
    """

    x: Float32Array
    v: Float32Array
    pixel: float
    depth_inside: Float32Array
    tissue: Float32Array
    air: Float32Array
    lung_density: Float32Array
    heart: Float32Array
    bone: Float32Array
    vessels: Float32Array

    def line_integral(self, opacity: Float32Array | float = 0.0) -> Float32Array:
        """Attenuation along each ray, with `opacity` (share of the lung's air replaced by fluid, 0 to 1)."""
        covered = np.clip(self.heart, 0.0, 1.0)
        density = self.lung_density + (1.0 - self.lung_density) * np.clip(opacity, 0.0, 1.0)
        aerated = self.air * (1.0 - 0.8 * covered) * (1.0 - density)
        seen = self.vessels * (1.0 - 0.8 * np.clip(opacity, 0.0, 1.0))
        depth = self.tissue - aerated + 0.35 * covered + self.bone + seen
        return np.asarray(np.maximum(depth, 0.0), dtype=np.float32)


def draw_chest(
    anatomy: ChestAnatomy,
    draws: Draws,
    *,
    heart_scale: Float32Array | float = 1.0,
    zoom: tuple[float, ...] = (1.0, 1.0),
) -> Chest:
    """Bodies of one chunk, healthy but for `heart_scale`; `zoom` is the share of the usual field along each axis."""
    x, v = _coordinates(anatomy, draws, zoom)
    pixel = 2.0 * anatomy.frame[1] * max(zoom) / min(draws.grid)
    lateral = draws.uniform((0.9, 0.98))
    hump = 0.45 - v
    wall = lateral * np.sqrt(np.maximum(1.0 - np.maximum(hump, 0.0) ** 2.3 / 2.5, 0.0))
    inside, air = _lungs(anatomy, draws, x, v, wall)
    heart = _heart(anatomy, draws, x, v, heart_scale)
    tissue = _trunk(anatomy, draws, x, v)
    bone = _bones(anatomy, draws, x, v, wall, pixel)
    vessels = _vessels(anatomy, draws, x, v, ramp(inside, 0.1))
    density = draws.uniform(anatomy.lung_density)
    return Chest(x, v, pixel, inside - 0.5 * heart, tissue, air, density, heart, bone, vessels)


def _coordinates(anatomy: ChestAnatomy, draws: Draws, zoom: tuple[float, ...]) -> tuple[Float32Array, Float32Array]:
    """Rays in body coordinates after shift, tilt, zoom and a slow warp that no two bodies share."""
    rows, columns = mesh(draws.grid)
    frame = draws.uniform(anatomy.frame)
    shift = (-anatomy.shift, anatomy.shift)
    down = rows * frame * zoom[0] + draws.uniform(shift) - 0.12
    across = columns * frame * zoom[1] + draws.uniform(shift)
    angle = draws.uniform(anatomy.tilt_deg) * np.float32(np.pi / 180)
    x = across * np.cos(angle) + down * np.sin(angle) + 0.02 * draws.field((3.0, 3.0))
    v = (down * np.cos(angle) - across * np.sin(angle)) / draws.uniform(anatomy.aspect) + 0.02 * draws.field((3.0, 3.0))
    return x, v


def _lungs(
    anatomy: ChestAnatomy, draws: Draws, x: Float32Array, v: Float32Array, wall: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Depth inside the lung field and length of lung along the ray."""
    ax, left = np.abs(x), x > 0
    breath = draws.uniform(anatomy.inspiration)
    high, peak = draws.uniform((0.0, 0.1)), draws.uniform((0.18, 0.3))
    base = 0.6 + breath + np.where(left, high, 0.0) + peak * ((ax - 0.42) / 0.55) ** 2
    to_side = wall - ax
    to_apex = v + draws.uniform((0.95, 1.05)) - 2.0 * (ax - 0.42) ** 2
    middle = draws.uniform((0.13, 0.2)) + 0.05 * v**2
    to_middle = ax - middle
    to_base = base - v
    inside = np.minimum(np.minimum(to_side, to_apex), np.minimum(to_middle, to_base))
    air = ramp(to_side, 0.5) * ramp(to_apex, 0.55) * ramp(to_middle, 0.16) * ramp(to_base, 0.1)
    return inside, (SOFT_DEPTH * LUNG_SHARE) * air


def _heart(
    anatomy: ChestAnatomy, draws: Draws, x: Float32Array, v: Float32Array, scale: Float32Array | float
) -> Float32Array:
    """Heart, aortic knob and mediastinum as share of the rays' covering."""
    size = draws.uniform(anatomy.heart) * scale
    along, across = x - 0.14 * size, v - (0.62 - 0.27 * size)
    tilt = draws.uniform((0.45, 0.75))
    p = (along * np.cos(tilt) + across * np.sin(tilt)) / (0.50 * size)
    q = (across * np.cos(tilt) - along * np.sin(tilt)) / (0.37 * size)
    heart = ramp(1.0 - p * p - q * q, 0.75)
    knob = 0.6 * dome(((x - 0.17) ** 2 + (v + 0.42) ** 2) / 0.13**2)
    stem = 0.8 * band(x - 0.03, draws.uniform((0.13, 0.2)), 0.12) * edge(0.3 - v, 0.3)
    return np.asarray(np.maximum(np.maximum(heart, knob), stem), dtype=np.float32)


def _trunk(anatomy: ChestAnatomy, draws: Draws, x: Float32Array, v: Float32Array) -> Float32Array:
    """Soft tissue of trunk, neck, shoulders, arms and breasts."""
    ax = np.abs(x)
    side = 1.0 + draws.uniform(anatomy.wall)
    neck = draws.uniform((0.34, 0.44))
    slope = draws.uniform((0.25, 0.6))
    shoulder_line = -1.32 + slope * np.maximum(ax - neck, 0.0) + 1.2 * np.maximum(ax - side - 0.2, 0.0) ** 2
    above = ramp(v - shoulder_line, 0.35)
    chest = np.sqrt(np.maximum(1.0 - (ax / side) ** 4, 0.0)) * above
    column = 0.75 * dome((x / neck) ** 2)
    down = draws.chance(anatomy.arms_down)
    spread = (0.12 + 0.6 * (1 - down)) * np.maximum(v + 0.7, 0.0)
    arm = 0.5 * dome(((ax - side - 0.12 - spread) / 0.27) ** 2) * above
    shoulder = 0.55 * dome(((ax - side - 0.02) / 0.4) ** 2 + ((v + 0.8) / 0.45) ** 2) * above
    low = 0.2 * edge(v - 0.7, 0.6)
    breast = draws.uniform(anatomy.breast) * dome(((ax - 0.55) / 0.42) ** 2 + ((v - 0.35) / 0.38) ** 2)
    trunk = np.maximum(np.maximum(chest * (1.0 + low), column), np.maximum(arm, shoulder)) + breast * above
    return np.asarray(SOFT_DEPTH * trunk * (1.0 + 0.03 * draws.field((4.0, 4.0))), dtype=np.float32)


def _bones(
    anatomy: ChestAnatomy, draws: Draws, x: Float32Array, v: Float32Array, wall: Float32Array, pixel: float
) -> Float32Array:
    """Ribs (back and front), clavicles, spine and the air of the windpipe, which counts against it."""
    ax = np.abs(x)
    strength = draws.uniform(anatomy.bone)
    spacing = draws.uniform((0.165, 0.2))
    slope = draws.uniform(anatomy.rib_slope)
    cage = edge(wall + 0.05 - ax, 0.08) * edge(v + 1.1, 0.1) * edge(1.1 - v, 0.4)
    back = (v - slope * (ax**2.2) + 0.08 * ax) / spacing + draws.uniform((0.0, 1.0))
    front = (v + 1.15 * slope * (ax - 1.0) + 0.3 * slope * (1 - ax) ** 2) / (1.15 * spacing) + draws.uniform((0, 1))
    soft = pixel / spacing
    ribs = _rungs(back, soft) * edge(ax - 0.1, 0.1) + 0.6 * _rungs(front, soft) * edge(ax - 0.42, 0.25)
    rim = 1.0 + 1.2 * edge(ax - wall + 0.1, 0.14)
    rise = draws.uniform((0.05, 0.3))
    line = v + 0.84 + rise * (ax - 0.12) + 0.05 * np.sin(5.0 * ax)
    clavicle = band(line, draws.uniform((0.03, 0.045)), pixel) * edge(ax - 0.1, 0.08) * edge(1.15 - ax, 0.2)
    vertebrae = band(x, 0.11, 0.05) * (0.8 + 0.2 * np.cos(2 * np.pi * v / (0.95 * spacing)))
    windpipe = band(x + 0.02, 0.05, 0.05) * edge(-0.25 - v, 0.3)
    bone = ribs * cage * rim * 0.32 + 0.45 * clavicle + 0.55 * vertebrae
    return np.asarray(strength * bone - 0.3 * windpipe * edge(v + 1.6, 0.3), dtype=np.float32)


def _rungs(phase: Float32Array, blur: Float32Array) -> Float32Array:
    """A ladder of bands of period 1, a third of it bright, a little brighter at their rims."""
    offset = np.abs(phase - np.round(phase))
    return np.asarray(edge(0.19 - offset, np.maximum(blur, 0.08)) * (0.8 + 1.6 * offset), dtype=np.float32)


def _vessels(
    anatomy: ChestAnatomy, draws: Draws, x: Float32Array, v: Float32Array, inside: Float32Array
) -> Float32Array:
    """Hila, and branching vessels as the thin ridges of random fields that fade away from them."""
    ax = np.abs(x)
    far = np.hypot(ax - 0.2, 0.8 * (v + 0.02))
    hilum = 0.5 * dome((far / draws.uniform((0.16, 0.24))) ** 2)
    fine, coarse = draws.field((16.0, 14.0)), draws.field((9.0, 8.0))
    ridges = np.exp(-8.0 * coarse**2) + 0.6 * np.exp(-8.0 * fine**2)
    tree = ridges * np.maximum(1.0 - far / 0.95, 0.0)
    return np.asarray(draws.uniform(anatomy.vessels) * (hilum + 0.6 * tree) * inside, dtype=np.float32)
