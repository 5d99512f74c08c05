"""A head as a magnetic resonance scanner sees it: one three-dimensional model, drawn whole or as an axial slice.

Coordinates in mm of an average adult, from the midpoint of the anterior commissure: `x` to the right, `y` forwards,
`z` upwards. Surfaces are signed distances, folds are the zero lines of a random field near the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manikin.common.images import Float32Array
from manikin.common.phantoms.anatomy import BrainAnatomy
from manikin.common.phantoms.fields import Draws, edge, mesh

HALF_FIELD_MM = {2: (115.0, 115.0), 3: (88.0, 108.0, 88.0)}
CENTRE_MM = (0.0, -3.0, 4.0)
HIPPOCAMPUS_MM = (27.0, -14.0, -17.0)
CROP_BELOW = 0.5
TISSUES = {  # FLAIR, T1
    "air": (0.01, 0.01),
    "fat": (0.80, 0.98),
    "muscle": (0.34, 0.42),
    "bone": (0.06, 0.06),
    "fluid": (0.10, 0.16),
    "grey": (0.54, 0.50),
    "white": (0.43, 0.70),
    "deep": (0.50, 0.60),
    "lesion": (0.88, 0.40),
    "oedema": (0.74, 0.50),
    "necrosis": (0.25, 0.22),
}


@dataclass
class Head:
    """One chunk of heads: maps (n, *grid), float32.

    Args:
        x, y, z: coordinates of each voxel, mm.
        voxel_mm: extent of a voxel in template mm.
        depth_mm: depth below the brain's surface, negative outside.
        ventricle_mm: depth inside a ventricle, negative outside.
        brain: share of each voxel that is grey or white matter.
        white: share of each voxel that is white matter.
        intensity: what the scanner sees of a healthy head.
        tissue: intensity of each tissue, (n, 1, ...).
    """

    x: Float32Array
    y: Float32Array
    z: Float32Array
    voxel_mm: float
    depth_mm: Float32Array
    ventricle_mm: Float32Array
    brain: Float32Array
    white: Float32Array
    intensity: Float32Array
    tissue: dict[str, Float32Array]


def draw_head(anatomy: BrainAnatomy, draws: Draws, *, atrophy: Float32Array, zoom: tuple[float, ...]) -> Head:
    """Heads of one chunk, healthy but for `atrophy` (n, 1, ...), which widens fluid spaces where it is 1."""
    dims = len(draws.grid)
    field_mm = tuple(2.0 * half * share for half, share in zip(HALF_FIELD_MM[dims], zoom, strict=True))
    x, y, z = _coordinates(anatomy, draws, zoom, field_mm)
    voxel_mm = max(size / cells for size, cells in zip(field_mm, draws.grid, strict=True))
    tissue = _tissues(anatomy, draws)
    below_skin = _depth_below_skin(anatomy, draws, x, y, z)
    scalp, skull = draws.uniform(anatomy.scalp_mm), draws.uniform(anatomy.skull_mm)
    in_skull = below_skin - scalp - skull
    sulci = draws.uniform(anatomy.sulci_mm) * (1.0 + 0.9 * atrophy)
    depth = _brain_depth(draws, x, y, z, in_skull - 0.6 * sulci)
    ventricle = _ventricle_depth(draws, x, y, z, draws.uniform(anatomy.ventricles) * (1.0 + 0.6 * atrophy))
    pial = _pial_distance(anatomy, draws, x, y, z, depth, field_mm)
    soft = np.float32(max(voxel_mm, 0.8))
    fluid = np.maximum(edge(0.5 * sulci - pial, soft), edge(ventricle, soft))
    brain = edge(depth, soft) * (1.0 - fluid)
    grey = np.maximum(edge(0.5 * sulci + 3.0 - pial, soft), _deep_grey(draws, x, y, z, soft))
    intensity = _outer(draws, x, y, z, below_skin, scalp, skull, soft, tissue)
    inside = edge(in_skull, soft) * edge(z + 62.0, 20.0) * edge(depth + 9.0, 5.0)
    _paint(intensity, inside, tissue["fluid"])
    matter = tissue["white"] + grey * (tissue["grey"] - tissue["white"])
    matter = matter * (1.0 + 0.04 * draws.field(tuple(size / 30.0 for size in field_mm)))
    _paint(intensity, brain, matter)
    return Head(x, y, z, voxel_mm, depth, ventricle, brain, brain * (1.0 - grey), intensity, tissue)


def _paint(canvas: Float32Array, share: Float32Array, value: Float32Array) -> None:
    """Cover `share` of each voxel with `value`, in place."""
    canvas += share * (value - canvas)


def _coordinates(
    anatomy: BrainAnatomy, draws: Draws, zoom: tuple[float, ...], field_mm: tuple[float, ...]
) -> tuple[Float32Array, ...]:
    """Template coordinates of each voxel after pose, size and a slow warp that no two heads share."""
    axes = [
        position * half * share
        for position, half, share in zip(mesh(draws.grid), HALF_FIELD_MM[len(zoom)], zoom, strict=True)
    ]
    centre = [draws.uniform((c - anatomy.shift_mm, c + anatomy.shift_mm)) for c in CENTRE_MM]
    if max(zoom) < CROP_BELOW:
        side = draws.side()
        centre = [c * f + draws.uniform((-5.0, 5.0)) for c, f in zip(HIPPOCAMPUS_MM, (side, 1.0, 1.0), strict=True)]
    if len(axes) == 2:
        axes = [-axes[1], -axes[0], draws.uniform(anatomy.level_mm) - centre[2]]
    x, y, z = (a + c for a, c in zip(axes, centre, strict=True))
    for first, second in ((0, 1), (1, 2), (0, 2)):
        angle = draws.uniform(anatomy.tilt_deg) * np.float32(np.pi / 180)
        p, q = (x, y, z)[first], (x, y, z)[second]
        turned = p * np.cos(angle) + q * np.sin(angle), q * np.cos(angle) - p * np.sin(angle)
        x, y, z = (turned[(first, second).index(i)] if i in (first, second) else (x, y, z)[i] for i in range(3))
    size = draws.uniform(anatomy.size)
    cells = tuple(max(size_mm / 70.0, 0.3) for size_mm in field_mm)
    scaled = (x / (size * draws.uniform(anatomy.width)), y / size, z / (size * draws.uniform(anatomy.height)))
    return tuple(np.asarray(c + 2.5 * draws.field(cells), dtype=np.float32) for c in scaled)


def _tissues(anatomy: BrainAnatomy, draws: Draws) -> dict[str, Float32Array]:
    """Intensity of each tissue of each image, between FLAIR and T1, each a little off."""
    weight = draws.uniform(anatomy.t1_weight)
    weight = weight * weight * (3.0 - 2.0 * weight)
    jitter = (1.0 - anatomy.contrast_jitter, 1.0 + anatomy.contrast_jitter)
    return {
        name: np.asarray((flair + weight * (t1 - flair)) * draws.uniform(jitter), dtype=np.float32)
        for name, (flair, t1) in TISSUES.items()
    }


def _depth_below_skin(
    anatomy: BrainAnatomy, draws: Draws, x: Float32Array, y: Float32Array, z: Float32Array
) -> Float32Array:
    """Approximate distance inside an egg-shaped head, mm; below the base it goes on as face and neck."""
    egg = 1.0 - draws.uniform((0.04, 0.14)) * y / 98.0
    height = z + 6.0
    p, q = x / (77.0 * egg), (y + 3.0) / 97.0
    r = height / np.where(height > 0, 92.0, 210.0)
    radius = np.sqrt(p * p + q * q + r * r) + 1e-6
    slope = np.sqrt((p / 77.0) ** 2 + (q / 97.0) ** 2 + (r / 92.0) ** 2) / radius
    return np.asarray((1.0 - radius) / np.maximum(slope, 1e-4), dtype=np.float32)


def _brain_depth(draws: Draws, x: Float32Array, y: Float32Array, z: Float32Array, room: Float32Array) -> Float32Array:
    """Depth inside cerebrum, cerebellum or brain stem, mm; the skull base and the tentorium bound the cerebrum below."""
    ax = np.abs(x)
    temporal = edge(30.0 - y, 14.0) * edge(y + 40.0, 24.0) * edge(ax - 15.0, 9.0)
    cerebrum = np.minimum(room, z + 12.0 + 28.0 * temporal)
    ball = np.sqrt((x / 53.0) ** 2 + ((y + 52.0) / 35.0) ** 2 + ((z + 38.0) / 24.0) ** 2)
    cerebellum = np.minimum(26.0 * (1.0 - ball), room)
    stem = 14.0 - np.hypot(x, 1.1 * (y + 22.0 - 0.15 * (z + 20.0))) - np.maximum(z - 2.0, 0.0)
    return np.asarray(np.maximum(np.maximum(cerebrum, cerebellum), stem), dtype=np.float32)


def _pial_distance(
    anatomy: BrainAnatomy,
    draws: Draws,
    x: Float32Array,
    y: Float32Array,
    z: Float32Array,
    depth: Float32Array,
    field_mm: tuple[float, ...],
) -> Float32Array:
    """Distance to the nearest fluid-filled surface, mm: the outside, folds, the gap between halves, Sylvian fissures."""
    cell = sum(anatomy.folds_mm) / 4.8
    folds = np.abs(draws.field(tuple(size / cell for size in field_mm))) * (cell / 1.3) / draws.uniform((0.85, 1.2))
    reach = draws.uniform((9.0, 16.0)) + 4.0 * draws.field(tuple(size / 40.0 for size in field_mm))
    folds = folds + 0.7 * np.maximum(depth - reach, 0.0)
    ax = np.abs(x)
    bridge = 50.0 * np.maximum(1.0 - np.hypot((y + 4.0) / 46.0, (z - 4.0) / 24.0), 0.0)
    falx = np.abs(x + 1.2 * draws.field(tuple(size / 25.0 for size in field_mm))) + bridge
    slant = np.abs(z - 3.0 - 0.5 * (y + 4.0)) * 0.85
    sylvian = slant - 1.0 + np.maximum(37.0 - ax, 0.0) + np.maximum(np.abs(y + 4.0) - 30.0, 0.0)
    return np.asarray(np.minimum(np.minimum(depth, folds), np.minimum(falx, sylvian)), dtype=np.float32)


def _ventricle_depth(
    draws: Draws, x: Float32Array, y: Float32Array, z: Float32Array, size: Float32Array
) -> Float32Array:
    """Depth inside lateral, third and fourth ventricle and the temporal horns, mm."""
    ax = np.abs(x) * (1.0 + 0.1 * np.sign(x) * draws.uniform((-1.0, 1.0)))
    along = np.clip((y + 6.0) / 40.0, -1.0, 1.0)
    body = 6.0 * size * np.sqrt(np.sqrt(1.0 - along**4)) - 1.0
    from_body = np.hypot(ax - 4.0 - 3.0 * size - 0.008 * (y - 8.0) ** 2, (z - 18.0 + 0.012 * (y + 4.0) ** 2) / 1.7)
    lateral = body - from_body - np.maximum(np.abs(y + 6.0) - 40.0, 0.0)
    atrium = 7.0 * size - np.sqrt((ax - 24.0) ** 2 + ((y + 38.0) / 1.5) ** 2 + ((z - 4.0) / 1.4) ** 2)
    horn = 2.2 * size - np.hypot(ax - 32.0, 1.3 * (z + 12.0)) - np.maximum(np.abs(y + 14.0) - 20.0, 0.0)
    third = np.minimum(1.6 * size - np.abs(x), 13.0 - np.hypot(y + 5.0, 1.2 * (z + 2.0)))
    fourth = 6.0 * size - np.sqrt(x**2 + (1.5 * (y + 38.0)) ** 2 + (0.7 * (z + 30.0)) ** 2)
    cistern = np.minimum(11.0 - np.hypot(0.8 * x, y - 8.0), -10.0 - z)
    return np.asarray(np.maximum.reduce([lateral, atrium, horn, third, fourth, cistern]), dtype=np.float32)


def _deep_grey(draws: Draws, x: Float32Array, y: Float32Array, z: Float32Array, soft: np.float32) -> Float32Array:
    """Share of caudate, thalamus, lentiform nucleus and hippocampus."""
    ax = np.abs(x)
    share = np.zeros_like(x)
    for cx, cy, cz, rx, ry, rz in ((13, 15, 11, 5, 11, 10), (11, -13, 7, 9, 14, 9), (26, 4, 3, 7, 16, 9)):
        size = draws.uniform((0.9, 1.1))
        radius = np.sqrt(((ax - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
        share = np.maximum(share, 0.75 * edge((size - radius) * min(rx, rz), soft))
    thick = draws.uniform((4.8, 6.4)) - 0.05 * np.abs(y + 4.0)
    tube = thick - np.hypot(ax - 26.0 - 0.1 * np.minimum(y + 10.0, 0.0) ** 2 / 20.0, z + 18.0 + 0.25 * (y + 10.0))
    return np.asarray(np.maximum(share, edge(tube - np.maximum(np.abs(y + 14.0) - 20.0, 0.0), soft)), dtype=np.float32)


def _outer(
    draws: Draws,
    x: Float32Array,
    y: Float32Array,
    z: Float32Array,
    below_skin: Float32Array,
    scalp: Float32Array,
    skull: Float32Array,
    soft: np.float32,
    tissue: dict[str, Float32Array],
) -> Float32Array:
    """Scalp, skull with marrow, the soft tissue of the base, and the eyes."""
    ax = np.abs(x)
    canvas = np.broadcast_to(tissue["air"], below_skin.shape).astype(np.float32)
    _paint(canvas, edge(below_skin, soft), tissue["fat"])
    _paint(canvas, edge(below_skin - scalp, soft), tissue["bone"])
    marrow = edge(0.18 * skull - np.abs(below_skin - scalp - 0.5 * skull), soft)
    _paint(canvas, 0.5 * marrow, tissue["fat"])
    mixed = np.clip(0.5 + 0.5 * draws.field(tuple(size / 9.0 for size in draws.grid)), 0.0, 1.0)
    base = tissue["bone"] + mixed * (tissue["muscle"] * 1.3 - tissue["bone"])
    _paint(canvas, edge(below_skin - scalp - skull, soft), base)
    orbit = np.sqrt((ax - 31.0) ** 2 + (y - 66.0) ** 2 + (z + 28.0) ** 2)
    _paint(canvas, edge(18.0 - orbit, 2 * soft), tissue["fat"])
    _paint(canvas, edge(12.0 - orbit, soft), tissue["fluid"])
    return canvas
