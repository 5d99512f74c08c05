"""A head as a magnetic resonance scanner sees it: one three-dimensional model, drawn whole or as an axial slice.

Coordinates in mm of an average adult, from the midpoint of the anterior commissure: `x` to the right, `y` forwards,
`z` upwards. Surfaces are signed distances, folds are the zero lines of a random field near the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manikin.common.phantoms.anatomy import BrainAnatomy
from manikin.common.phantoms.fields import Draws, Map, edge, length, union
from manikin.common.phantoms.skull import FINEST_MM, depth_below_skin, draw_tissues, paint, paint_outside
from manikin.common.phantoms.space import Space, draw_space

ZERO_CROSSING_CELLS = 2.4
NUCLEI_MM = (  # centre and radii: caudate, thalamus, lentiform nucleus, amygdala
    (13, 15, 11, 5, 11, 10),
    (11, -13, 7, 9, 14, 9),
    (26, 4, 3, 7, 16, 9),
    (23, 2, -17, 8, 9, 8),
)


@dataclass
class Head:
    """One chunk of heads: maps (n, *grid), float32.

    Args:
        space: where each voxel lies.
        depth_mm: depth below the brain's surface, negative outside.
        ventricle_mm: depth inside a ventricle, negative outside.
        brain: share of each voxel that is grey or white matter.
        white: share of each voxel that is white matter.
        intensity: what the scanner sees of a healthy head.
        tissue: intensity of each tissue, (n, 1, ...).
    """

    space: Space
    depth_mm: Map
    ventricle_mm: Map
    brain: Map
    white: Map
    intensity: Map
    tissue: dict[str, Map]


def draw_head(anatomy: BrainAnatomy, draws: Draws, *, atrophy: Map, zoom: tuple[float, ...]) -> Head:
    """Heads of one chunk, healthy but for `atrophy` (n, 1, ...), which widens fluid spaces where it is 1."""
    space, tissue = draw_space(anatomy, draws, zoom), draw_tissues(anatomy, draws)
    below_skin = depth_below_skin(space, draws)
    scalp, skull = draws.uniform(anatomy.scalp_mm), draws.uniform(anatomy.skull_mm)
    in_skull = below_skin - scalp - skull
    sulci = draws.uniform(anatomy.sulci_mm) * (1.0 + 0.9 * atrophy)
    depth = _brain_depth(space, in_skull - 0.6 * sulci)
    ventricle = _ventricle_depth(space, draws, draws.uniform(anatomy.ventricles) * (1.0 + 0.6 * atrophy))
    nuclei = _nuclei_depth(space, draws)
    pial = _pial_distance(anatomy, space, draws, depth) + np.maximum(np.minimum(nuclei + 5.0, depth), 0.0)
    soft = max(space.voxel_mm, FINEST_MM)
    fluid = np.maximum(edge(0.5 * sulci - pial, soft), edge(ventricle, soft))
    brain = edge(depth, soft) * (1.0 - fluid)
    cortex, deep = edge(0.5 * sulci + 3.0 - pial, soft), 0.9 * edge(nuclei, soft)
    intensity = paint_outside(space, draws, below_skin, scalp, skull, tissue)
    paint(intensity, edge(in_skull, soft) * edge(depth + 6.0, 4.0), tissue["fluid"])
    matter = tissue["white"] + cortex * (tissue["grey"] - tissue["white"])
    paint(matter, deep, tissue["deep"])
    paint(intensity, brain, matter * (1.0 + 0.04 * draws.field(space.cells(30.0))))
    return Head(space, depth, ventricle, brain, brain * (1.0 - np.maximum(cortex, deep)), intensity, tissue)


def _brain_depth(space: Space, room: Map) -> Map:
    """Depth inside cerebrum, cerebellum or brain stem, mm; skull base and tentorium bound the cerebrum below."""
    x, y, z = space.x, space.y, space.z
    ax = np.abs(x)
    vault = -union(-room, -(z + 13.0 + 3.0 * np.cos(ax / 14.0) - 0.06 * np.minimum(y, 0.0)), 14.0)
    lobe = length((ax - 40.0) / 24.0, y / 44.0, (z + 18.0) / 22.0)
    temporal = -union(-room, -22.0 * (1.0 - lobe), 8.0)
    ball = length(x / 54.0, (y + 54.0) / 34.0, (z + 40.0) / 23.0)
    cerebellum = np.minimum(24.0 * (1.0 - ball), room)
    stem = 13.0 - length(x, 1.1 * (y + 24.0 - 0.2 * (z + 20.0))) - np.maximum(z - 2.0, 0.0)
    return np.maximum(union(vault, temporal, 6.0), union(cerebellum, stem, 5.0))


def _pial_distance(anatomy: BrainAnatomy, space: Space, draws: Draws, depth: Map) -> Map:
    """Distance to the nearest surface with fluid, mm: the outside, folds, the gap between halves, Sylvian fissures."""
    x, y, z = space.x, space.y, space.z
    cell = sum(anatomy.folds_mm) / 2.0 / ZERO_CROSSING_CELLS
    folds = np.abs(draws.field(space.cells(cell))) * (cell / 1.3) / draws.uniform((0.85, 1.2))
    reach = draws.uniform((11.0, 19.0)) + 4.0 * draws.field(space.cells(40.0))
    folds = folds + 0.7 * np.maximum(depth - reach, 0.0)
    ax = np.abs(x)
    bridge = 50.0 * np.maximum(1.0 - length((y + 4.0) / 46.0, (z - 4.0) / 24.0), 0.0)
    falx = np.abs(x + 1.2 * draws.field(space.cells(25.0))) + bridge
    wavy = 3.0 * draws.field(space.cells(22.0))
    slant = np.abs(z - 3.0 - 0.5 * (y + 4.0) + wavy) * 0.85
    sylvian = slant + np.maximum(36.0 - ax, 0.0) + np.maximum(np.abs(y + 4.0) - 30.0, 0.0)
    return np.minimum(np.minimum(depth, folds), np.minimum(falx, sylvian))


def _ventricle_depth(space: Space, draws: Draws, size: Map) -> Map:
    """Depth inside lateral, third and fourth ventricle and the temporal horns, mm."""
    x, y, z = space.x, space.y, space.z
    ax = np.abs(x) * (1.0 + 0.1 * np.sign(x) * draws.uniform((-1.0, 1.0)))
    along = np.clip((y + 6.0) / 40.0, -1.0, 1.0) ** 2
    body = 6.0 * size * np.sqrt(np.sqrt(1.0 - along * along)) - 1.0
    from_body = length(ax - 4.0 - 3.0 * size - 0.008 * (y - 8.0) ** 2, (z - 18.0 + 0.012 * (y + 4.0) ** 2) / 1.7)
    lateral = body - from_body - np.maximum(np.abs(y + 6.0) - 40.0, 0.0)
    atrium = 5.5 * size - length(ax - 23.0, (y + 36.0) / 1.8, (z - 4.0) / 1.5)
    bend = ax - 31.0 - 0.006 * np.minimum(y + 10.0, 0.0) ** 2
    tips = np.maximum(np.abs(y + 14.0) - 18.0, 0.0)
    horn = 2.2 * size - length(1.3 * bend, 0.7 * (z + 12.0 + 0.3 * (y + 14.0))) - tips
    third = np.minimum(1.6 * size - np.abs(x), 13.0 - length(y + 5.0, 1.2 * (z + 2.0)))
    fourth = 6.0 * size - length(x, 1.5 * (y + 38.0), 0.7 * (z + 30.0))
    cistern = np.minimum(11.0 - length(0.8 * x, y - 8.0), -10.0 - z)
    depth: Map = np.maximum.reduce([lateral, atrium, horn, third, fourth, cistern])
    return depth


def _nuclei_depth(space: Space, draws: Draws) -> Map:
    """Depth inside caudate, thalamus, lentiform nucleus and hippocampus with amygdala, mm."""
    ax, y, z = np.abs(space.x), space.y, space.z
    depth = np.full_like(y, -50.0)
    for cx, cy, cz, rx, ry, rz in NUCLEI_MM:
        radius = length((ax - cx) / rx, (y - cy) / ry, (z - cz) / rz)
        depth = np.maximum(depth, (draws.uniform((0.88, 1.1)) - radius) * min(rx, rz))
    back = np.minimum(y + 10.0, 0.0)
    thick = draws.uniform((4.8, 6.6)) - 0.06 * np.abs(y + 8.0) - np.maximum(np.abs(y + 16.0) - 18.0, 0.0)
    aside, above = ax - 26.0 - 0.006 * back**2, z + 17.0 + 0.3 * (y + 14.0)
    turned = 0.8 * aside + 0.35 * above, 1.2 * above - 0.2 * aside
    return np.maximum(depth, thick - length(*turned))
