"""A chest seen from the front, as an X-ray sees it: the length of tissue, air and bone along each ray.

Coordinates: `x` to the image's right (the patient's left), `v` downwards, both in units of half the inner width of
the rib cage, `v` divided by the body's aspect. The apex of the lungs lies near v = -1, the diaphragm near 0.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manikin.common.phantoms.anatomy import ChestAnatomy
from manikin.common.phantoms.fields import Draws, Map, band, dome, edge, length, mesh, ramp

SOFT_DEPTH = 2.6
LUNG_SHARE = 0.76


@dataclass
class Chest:
    """One chunk of chests: maps (n, *grid), float32.

    Args:
        x, v: coordinates of each ray.
        pixel: extent of a pixel in the same units.
        depth_inside: how far inside the open lung field, heart left out, in the same units; negative outside.
        lung: share of each pixel with lung anywhere along the ray, behind the heart too.
        tissue: soft tissue along the ray, without lungs, heart and bone.
        air: the length of lung along the ray, as if it were all air.
        lung_density: share of soft tissue in the lung, (n, 1, 1).
        heart: heart and great vessels along the ray.
        bone: bone along the ray.
        vessels: hila and vessels along the ray.
    """

    x: Map
    v: Map
    pixel: float
    depth_inside: Map
    lung: Map
    tissue: Map
    air: Map
    lung_density: Map
    heart: Map
    bone: Map
    vessels: Map

    def line_integral(self, opacity: Map | float = 0.0) -> Map:
        """Attenuation along each ray, with `opacity` (share of the lung's air replaced by fluid, 0 to 1)."""
        covered = np.clip(self.heart, 0.0, 1.0)
        filled = np.asarray(opacity, dtype=np.float32).clip(0.0, 1.0)
        density = self.lung_density + (1.0 - self.lung_density) * filled
        aerated = self.air * (1.0 - 0.8 * covered) * (1.0 - density)
        seen = self.vessels * (1.0 - 0.8 * filled)
        depth: Map = self.tissue - aerated + 0.15 * covered + self.bone + seen
        return depth.clip(0.0)


def draw_chest(
    anatomy: ChestAnatomy,
    draws: Draws,
    *,
    heart_scale: Map | float = 1.0,
    zoom: tuple[float, ...] = (1.0, 1.0),
) -> Chest:
    """Bodies of one chunk, healthy but for `heart_scale`; `zoom` is the share of the usual field along each axis."""
    x, v = _coordinates(anatomy, draws, zoom)
    pixel = 2.0 * anatomy.frame[1] * max(zoom) / min(draws.grid)
    wall = _cage(anatomy, draws, v)
    inside, air = _lungs(anatomy, draws, x, v, wall)
    heart = _heart(anatomy, draws, x, v, heart_scale)
    tissue = _trunk(anatomy, draws, x, v)
    bone = _bones(anatomy, draws, x, v, wall, pixel)
    vessels = _vessels(anatomy, draws, x, v, ramp(inside, 0.1))
    density = draws.uniform(anatomy.lung_density)
    return Chest(x, v, pixel, inside - 0.5 * heart, edge(inside, 0.04), tissue, air, density, heart, bone, vessels)


def _coordinates(anatomy: ChestAnatomy, draws: Draws, zoom: tuple[float, ...]) -> tuple[Map, Map]:
    """Rays in body coordinates after shift, tilt, zoom and a slow warp that no two bodies share."""
    rows, columns = mesh(draws.grid)
    frame = draws.uniform(anatomy.frame)
    shift = (-anatomy.shift, anatomy.shift)
    down = rows * frame * zoom[0] + draws.uniform(shift) - 0.07
    across = columns * frame * zoom[1] + draws.uniform(shift)
    angle = draws.uniform(anatomy.tilt_deg) * np.float32(np.pi / 180)
    x = across * np.cos(angle) + down * np.sin(angle) + 0.02 * draws.field((3.0, 3.0))
    v = (down * np.cos(angle) - across * np.sin(angle)) / draws.uniform(anatomy.aspect) + 0.02 * draws.field((3.0, 3.0))
    return x, v


def _cage(anatomy: ChestAnatomy, draws: Draws, v: Map) -> Map:
    """Half the inner width of the rib cage at each height: a dome in adults, nearly a triangle in small children."""
    taper = draws.uniform(anatomy.taper)
    rise = np.clip((draws.uniform((0.4, 0.55)) - v) / 1.52, 0.0, 1.0)
    width = np.maximum(1.0 - rise ** (2.3 - 0.8 * taper), 0.0) ** (0.5 + 0.3 * taper)
    return draws.uniform((0.92, 1.0)) * width


def _lungs(anatomy: ChestAnatomy, draws: Draws, x: Map, v: Map, wall: Map) -> tuple[Map, Map]:
    """Depth inside the lung field and length of lung along the ray."""
    ax, left = np.abs(x), x > 0
    breath = draws.uniform(anatomy.inspiration)
    high, peak = draws.uniform((0.0, 0.1)), draws.uniform((0.18, 0.3))
    base = 0.65 + breath + np.where(left, high, 0.0) + peak * ((ax - 0.42) / 0.55) ** 2
    to_side = wall - ax
    to_apex = v + draws.uniform((0.95, 1.05)) - 2.0 * (ax - 0.36) ** 2
    middle = draws.uniform((0.13, 0.2)) + 0.05 * v**2
    to_middle = ax - middle
    to_base = base - v
    inside = np.minimum(np.minimum(to_side, to_apex), np.minimum(to_middle, to_base))
    shell = ramp(to_side, 0.12) * ramp(to_apex, 0.14) * ramp(to_middle, 0.14) * ramp(to_base, 0.08)
    air = shell * (0.45 + 0.55 * ramp(to_side, 0.65) * ramp(to_apex, 0.75)) * (1.0 + 0.07 * draws.field((3.0, 3.0)))
    return inside, (SOFT_DEPTH * LUNG_SHARE) * air


def _heart(anatomy: ChestAnatomy, draws: Draws, x: Map, v: Map, scale: Map | float) -> Map:
    """Heart, aortic knob and mediastinum as share of the rays' covering."""
    size = draws.uniform(anatomy.heart) * scale
    along, across = x - 0.16 * size, v - (0.72 - 0.27 * size)
    tilt = draws.uniform((0.4, 0.75))
    p = (along * np.cos(tilt) + across * np.sin(tilt)) / (0.52 * size)
    q = (across * np.cos(tilt) - along * np.sin(tilt)) / (0.38 * size)
    heart = ramp(1.0 - p * p - q * q, 0.6)
    right_edge = 0.9 * ramp(1.0 - ((x + 0.05) / (0.3 * size)) ** 2 - ((v - 0.4) / 0.42) ** 2, 0.5)
    knob = 0.7 * dome(((x - 0.15) ** 2 + (v + 0.42) ** 2) / draws.uniform((0.1, 0.15)) ** 2)
    width = draws.uniform((0.12, 0.19))
    stem = 0.85 * band(x - 0.03, width + 0.06 * edge(-0.6 - v, 0.6), 0.12) * edge(0.35 - v, 0.3)
    covering: Map = np.maximum.reduce([heart, right_edge, knob, stem])
    return covering


def _trunk(anatomy: ChestAnatomy, draws: Draws, x: Map, v: Map) -> Map:
    """Soft tissue of trunk, neck, shoulders, arms and breasts."""
    ax = np.abs(x)
    neck, slope = draws.uniform((0.36, 0.46)), draws.uniform((0.2, 0.5))
    down = draws.chance(anatomy.arms_down)
    side = 1.0 + draws.uniform(anatomy.wall)
    breadth = side + 0.55 * edge(-0.35 - v, 0.7)
    shoulder_line = -1.34 + slope * np.maximum(ax - neck, 0.0) + 0.5 * np.maximum(ax - side - 0.25, 0.0) ** 2 * down
    above = ramp(v - shoulder_line, 0.4)
    chest = dome(((ax / breadth) ** 2) ** 2) * above
    low = 0.14 * edge(v - 0.65, 0.5)
    spread = np.where(down > 0, draws.uniform((0.05, 0.35)) * (v + 0.7), -0.6 * (v + 0.9))
    reach = edge(np.where(down > 0, v + 0.9, 0.2 - v), 0.3)
    arm = 0.5 * dome(((ax - side - 0.2 - spread) / 0.26) ** 2) * reach
    head = 0.8 * dome((x / 0.62) ** 2 + ((v + 2.0) / draws.uniform((0.5, 0.75))) ** 2)
    column = np.maximum(0.72 * dome((x / neck) ** 2), head)
    breast = draws.uniform(anatomy.breast) * dome(((ax - 0.55) / 0.42) ** 2 + ((v - 0.38) / 0.36) ** 2)
    trunk = np.maximum(np.maximum(chest * (1.0 + low), column), arm) + breast * above
    gas = ((x - draws.uniform((0.3, 0.55))) / 0.22) ** 2 + ((v - draws.uniform((0.9, 1.05))) / 0.12) ** 2
    stomach = draws.uniform((0.0, 0.25)) * draws.chance(0.4) * dome(gas)
    depth: Map = SOFT_DEPTH * (trunk - stomach) * (1.0 + 0.025 * draws.field((4.0, 4.0)))
    return depth


def _bones(anatomy: ChestAnatomy, draws: Draws, x: Map, v: Map, wall: Map, pixel: float) -> Map:
    """Ribs (back and front), clavicles, spine and the air of the windpipe, which counts against it."""
    ax = np.abs(x)
    strength = draws.uniform(anatomy.bone)
    spacing = draws.uniform((0.165, 0.2))
    slope = draws.uniform(anatomy.rib_slope)
    cage = edge(wall - 0.03 - ax, 0.1) * edge(v + 1.08, 0.1) * edge(0.9 - v, 0.5)
    back = (v - slope * ax**2 + 0.08 * ax) / spacing + draws.uniform((0.0, 1.0))
    front = (v + 1.15 * slope * (ax - 1.0) + 0.3 * slope * (1 - ax) ** 2) / (1.15 * spacing) + draws.uniform((0, 1))
    soft = pixel / spacing
    ribs = _rungs(back, soft) * edge(ax - 0.1, 0.1) + 0.6 * _rungs(front, soft) * edge(ax - 0.42, 0.25)
    rim = 0.2 * band(ax - wall, 0.02, 0.05) * edge(v + 0.9, 0.3) * edge(1.0 - v, 0.4)
    rise = draws.uniform((0.05, 0.3))
    line = v + 0.84 + rise * (ax - 0.12) + 0.05 * np.sin(5.0 * ax)
    clavicle = band(line, draws.uniform((0.03, 0.045)), pixel) * edge(ax - 0.1, 0.08) * edge(1.15 - ax, 0.2)
    vertebrae = band(x, 0.11, 0.05) * (0.8 + 0.2 * np.cos(2 * np.pi * v / (0.95 * spacing)))
    windpipe = band(x + 0.02, 0.05, 0.05) * edge(-0.25 - v, 0.3)
    blade = band(length((ax - 0.95) / 0.3, (v + 0.45) / 0.5) - 0.9, 0.1, 0.1) * edge(ax - 0.75, 0.2)
    joint = dome(((ax - 1.28) ** 2 + (v + 0.78) ** 2) / 0.2**2)
    bone = 0.38 * ribs * cage + rim + 0.4 * clavicle + 0.45 * vertebrae + 0.12 * blade + 0.3 * joint
    depth: Map = strength * bone - 0.3 * windpipe * edge(v + 1.6, 0.3)
    return depth


def _rungs(phase: Map, blur: Map) -> Map:
    """A ladder of bands of period 1, a third of it bright, a little brighter at their rims."""
    offset = np.abs(phase - np.round(phase))
    return edge(0.19 - offset, np.maximum(blur, 0.08)) * (0.8 + 1.6 * offset)


def _vessels(anatomy: ChestAnatomy, draws: Draws, x: Map, v: Map, inside: Map) -> Map:
    """Hila, and branching vessels as the thin ridges of random fields that fade away from them."""
    ax = np.abs(x)
    far = length(ax - 0.2, 0.8 * (v + 0.02))
    hilum = 0.5 * dome((far / draws.uniform((0.16, 0.24))) ** 2)
    fine, coarse = draws.field((16.0, 14.0)), draws.field((9.0, 8.0))
    ridges = np.exp(-8.0 * coarse**2) + 0.6 * np.exp(-8.0 * fine**2)
    tree = ridges * np.maximum(1.0 - far / 0.95, 0.0)
    return draws.uniform(anatomy.vessels) * (hilum + 0.8 * tree) * inside
