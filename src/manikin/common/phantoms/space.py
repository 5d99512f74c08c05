"""Where in a head each voxel lies: template coordinates after pose, size and warp.

Coordinates in mm of an average adult, from the midpoint of the anterior commissure: `x` to the right, `y` forwards,
`z` upwards.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manikin.common.phantoms.anatomy import BrainAnatomy
from manikin.common.phantoms.fields import Draws, Map, mesh

HALF_FIELD_MM = {2: (110.0, 110.0), 3: (88.0, 108.0, 88.0)}
CENTRE_MM = (0.0, -3.0, 4.0)
HIPPOCAMPUS_MM = (27.0, -14.0, -17.0)
CROP_BELOW = 0.5


class Space(NamedTuple):
    """Template coordinates of one chunk.

    Args:
        x, y, z: coordinates of each voxel (n, *grid), mm.
        field_mm: field of view along each axis of the image.
        voxel_mm: largest extent of a voxel.
    """

    x: Map
    y: Map
    z: Map
    field_mm: tuple[float, ...]
    voxel_mm: float

    def cells(self, size_mm: float) -> tuple[float, ...]:
        """How many blobs of `size_mm` fit along each axis: what `Draws.field` wants."""
        return tuple(max(extent / size_mm, 0.3) for extent in self.field_mm)


def draw_space(anatomy: BrainAnatomy, draws: Draws, zoom: tuple[float, ...]) -> Space:
    """Coordinates of one chunk; `zoom` is the share of the usual field of view along each axis.

    A slice lies at a drawn level; a crop lies around one hippocampus.
    """
    halves = tuple(half * share for half, share in zip(HALF_FIELD_MM[len(zoom)], zoom, strict=True))
    axes = [position * half for position, half in zip(mesh(draws.grid), halves, strict=True)]
    centre = [draws.uniform((c - anatomy.shift_mm, c + anatomy.shift_mm)) for c in CENTRE_MM]
    if max(zoom) < CROP_BELOW:
        centre = [draws.uniform((c - 4.0, c + 4.0)) for c in HIPPOCAMPUS_MM]
        centre[0] = centre[0] * draws.side()
    if len(axes) == 2:
        axes = [-axes[1], -axes[0], draws.uniform(anatomy.level_mm) - centre[2]]
    posed = _turn([a + c for a, c in zip(axes, centre, strict=True)], anatomy, draws)
    size = draws.uniform(anatomy.size)
    scales = (size * draws.uniform(anatomy.width), size, size * draws.uniform(anatomy.height))
    field_mm = tuple(2.0 * half for half in halves)
    voxel_mm = max(extent / cells for extent, cells in zip(field_mm, draws.grid, strict=True))
    space = Space(posed[0], posed[1], posed[2], field_mm, voxel_mm)
    x, y, z = (axis / scale + 2.5 * draws.field(space.cells(70.0)) for axis, scale in zip(posed, scales, strict=True))
    return space._replace(x=x, y=y, z=z)


def _turn(axes: list[Map], anatomy: BrainAnatomy, draws: Draws) -> list[Map]:
    """Turn, nod and lean the head by small angles."""
    axes = list(axes)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        angle = draws.uniform(anatomy.tilt_deg) * np.float32(np.pi / 180)
        p, q = axes[first], axes[second]
        axes[first], axes[second] = p * np.cos(angle) + q * np.sin(angle), q * np.cos(angle) - p * np.sin(angle)
    return axes
