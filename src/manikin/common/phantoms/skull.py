"""What surrounds the brain: skin and fat, bone with marrow, the base of the skull with its sinuses, the eyes.

Also the tissues' intensities, which the whole head shares.
"""

from __future__ import annotations

import numpy as np

from manikin.common.phantoms.anatomy import BrainAnatomy
from manikin.common.phantoms.fields import Draws, Map, edge, length
from manikin.common.phantoms.space import Space

FINEST_MM = 0.8
SINUSES_MM = ((0.0, 70.0, -30.0, 13.0), (0.0, 30.0, -36.0, 13.0), (52.0, -28.0, -36.0, 10.0))  # centre, radius
TISSUES = {  # FLAIR, T1
    "air": (0.01, 0.01),
    "fat": (0.98, 1.20),
    "muscle": (0.34, 0.42),
    "bone": (0.06, 0.06),
    "fluid": (0.10, 0.16),
    "grey": (0.56, 0.48),
    "white": (0.42, 0.72),
    "deep": (0.53, 0.58),
    "lesion": (0.88, 0.40),
    "oedema": (0.74, 0.50),
    "necrosis": (0.25, 0.22),
}


def draw_tissues(anatomy: BrainAnatomy, draws: Draws) -> dict[str, Map]:
    """Intensity of each tissue of each image, between FLAIR and T1, each a little off."""
    weight = draws.uniform(anatomy.t1_weight)
    weight = edge(edge(weight - 0.5, 1.0) - 0.5, 0.9)  # protocols crowd at either end
    jitter = (1.0 - anatomy.contrast_jitter, 1.0 + anatomy.contrast_jitter)
    return {name: ((flair + weight * (t1 - flair)) * draws.uniform(jitter)) for name, (flair, t1) in TISSUES.items()}


def depth_below_skin(space: Space, draws: Draws) -> Map:
    """Approximate distance inside an egg-shaped head, mm; below the base it goes on as face and neck."""
    x, y, z = space.x, space.y, space.z
    egg = 1.0 - draws.uniform((0.04, 0.14)) * y / 98.0
    height = z + 6.0
    p, q = x / (77.0 * egg), (y + 3.0) / 97.0
    r = np.maximum(height / 92.0, -height / 210.0)
    radius = length(p, q, r) + 1e-6
    slope = length(p / 77.0, q / 97.0, r / 92.0) / radius
    return (1.0 - radius) / np.maximum(slope, 1e-4)


def paint(canvas: Map, share: Map, value: Map) -> None:
    """Cover `share` of each voxel with `value`, in place."""
    canvas += share * (value - canvas)


def paint_outside(space: Space, draws: Draws, below_skin: Map, scalp: Map, skull: Map, tissue: dict[str, Map]) -> Map:
    """Scalp, skull with marrow, the soft tissue of the base, and the eyes."""
    ax, y, z, soft = np.abs(space.x), space.y, space.z, max(space.voxel_mm, FINEST_MM)
    canvas = np.broadcast_to(tissue["air"], below_skin.shape).astype(np.float32)
    paint(canvas, edge(below_skin, soft), tissue["fat"])
    paint(canvas, edge(below_skin - scalp, soft), tissue["bone"])
    marrow = edge(0.18 * skull - np.abs(below_skin - scalp - 0.5 * skull), soft)
    paint(canvas, 0.5 * marrow, tissue["fat"])
    low = edge(-8.0 - z, 20.0)
    mixed = np.clip(0.55 + 0.45 * draws.field(space.cells(14.0)), 0.0, 1.0)
    base = tissue["bone"] + mixed * (tissue["muscle"] * 1.4 - tissue["bone"])
    paint(canvas, edge(below_skin - scalp - skull, soft), base)
    temple = edge(22.0 - np.abs(y - 28.0), 10.0) * edge(below_skin - 0.6 * scalp, soft) * edge(13.0 - below_skin, 4.0)
    paint(canvas, 0.8 * low * temple, tissue["muscle"])
    for cx, cy, cz, r in SINUSES_MM:
        hollow = r - length(ax - cx, y - cy, 0.8 * (z - cz)) + 8.0 * (mixed - 0.5)
        paint(canvas, 0.9 * edge(hollow, 2.0 * soft), tissue["air"])
    orbit = length(ax - 31.0, y - 66.0, z + 28.0)
    paint(canvas, edge(18.0 - orbit, 2 * soft), tissue["fat"])
    paint(canvas, edge(12.0 - orbit, soft), tissue["fluid"])
    return canvas
