"""Findings of the brain: what they change in a head, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from manikin.common.phantoms.anatomy import BrainAnatomy
from manikin.common.phantoms.brain import Head, draw_head
from manikin.common.phantoms.fields import Draws, Map, edge, length

BRAIN_FINDINGS = ("normal", "tumour", "lesions", "stroke", "atrophy")

Drawn = tuple[Map, Map]


def render_brain(
    anatomy: BrainAnatomy, findings: Sequence[str], draws: Draws, zoom: tuple[float, ...]
) -> tuple[Map, Map]:
    """Tissue intensities, and how much of each voxel the finding covers (0 to 1), for one finding name an image.

    Returns:
        Two float32 maps (n, *grid). The second is empty for `normal` and `atrophy`, which have no place.
    """
    names = np.array(findings)
    head = draw_head(anatomy, draws, atrophy=draws.column(names == "atrophy"), zoom=zoom)
    intensity, cover = head.intensity, np.zeros_like(head.intensity)
    for name, draw in _DRAWN.items():
        chosen = np.flatnonzero(names == name)
        if len(chosen):
            part, some = _subset(head, chosen), Draws(draws.rng, len(chosen), draws.grid)
            intensity[chosen], cover[chosen] = draw(part, some)
    return intensity, cover


def _subset(head: Head, chosen: Map) -> Head:
    maps = {name: value[chosen] for name, value in vars(head).items() if isinstance(value, np.ndarray)}
    space = head.space._replace(x=head.space.x[chosen], y=head.space.y[chosen], z=head.space.z[chosen])
    return replace(head, **maps, space=space, tissue={name: value[chosen] for name, value in head.tissue.items()})


def _tumour(head: Head, draws: Draws) -> Drawn:
    """One mass with a ragged rim of oedema in the white matter, in some with a necrotic core."""
    centre = _centre(head, head.depth_mm, draws, margin=12.0)
    radius = draws.uniform((11.0, 25.0)) * min(1.0, max(head.space.field_mm) / 100.0)
    far = _distance(head, centre, draws) / radius + 0.16 * draws.field(head.space.cells(22.0))
    soft = head.space.voxel_mm / radius
    matter = np.maximum(
        head.brain, edge(head.depth_mm - 2.0, 2.0) * edge(1.0 - far, 0.3) * edge(-head.ventricle_mm, 2.0)
    )
    reach = 1.0 + draws.chance(0.7) * draws.uniform((0.15, 0.6))
    oedema = edge(reach - far, 0.25 + soft) * np.maximum(head.white, edge(1.0 - far, 0.3)) * matter
    core = edge(1.0 - far, 0.15 + soft) * matter
    dead = (
        draws.chance(0.25)
        * edge(draws.uniform((0.2, 0.6)) - far - 0.25 * draws.field(head.space.cells(15.0)), 0.1 + soft)
        * matter
    )
    texture = 1.0 + 0.08 * draws.field(head.space.cells(12.0))
    intensity = _cover(head.intensity, 0.85 * oedema, head.tissue["oedema"])
    intensity = _cover(intensity, core, head.tissue["lesion"] * texture)
    return _cover(intensity, dead, head.tissue["necrosis"]), np.maximum(core, oedema)


def _lesions(head: Head, draws: Draws) -> Drawn:
    """Two to nine small ovals in the white matter beside the ventricles, pointing away from them."""
    near = np.clip(1.2 + head.ventricle_mm / 30.0, 0.0, 1.0) * head.white
    cover = np.zeros_like(head.intensity)
    for number in range(9):
        centre = _centre(head, near, draws, margin=0.5)
        radius = draws.uniform((2.5, 5.5))
        spot = edge(1.0 - _distance(head, centre, draws) / radius, 0.3 + head.space.voxel_mm / radius) * head.brain
        cover = np.maximum(cover, spot * (draws.chance(0.55) if number > 1 else 1.0))
    return _cover(head.intensity, cover, head.tissue["lesion"]), cover


def _stroke(head: Head, draws: Draws) -> Drawn:
    """A wedge of one half's cortex and the white matter below it, as an artery supplies it."""
    row = _centre(head, -np.abs(head.depth_mm - 12.0), draws, margin=-4.0)
    side = np.copysign(np.float32(1.0), row[0])
    tip = (side * 14.0, 0.35 * row[1], 0.6 * row[2] + 2.0)
    along = [point - start for point, start in zip(row, tip, strict=True)]
    whole = length(*along) + 1e-3
    place = [axis - start for axis, start in zip(head.space[:3], tip, strict=True)]
    reach = length(*place) + 1e-3
    cosine = sum(p * a for p, a in zip(place, along, strict=True)) / (reach * whole)
    opening = np.cos(draws.uniform((0.35, 0.75)))
    ragged = 0.05 * draws.field(head.space.cells(18.0))
    wedge = edge(cosine + ragged - opening, 0.06) * edge(side * head.space.x - 3.0, 3.0) * edge(reach - 6.0, 6.0)
    cover = (
        wedge * edge(head.depth_mm, 2.0) * edge(-head.ventricle_mm, head.space.voxel_mm) * np.maximum(head.brain, 0.5)
    )
    return _cover(head.intensity, 0.85 * cover, head.tissue["lesion"]), cover


def _cover(canvas: Map, share: Map, value: Map) -> Map:
    covered: Map = canvas + share * (value - canvas)
    return covered


def _centre(head: Head, score: Map, draws: Draws, *, margin: float) -> tuple[Map, ...]:
    """Coordinates of one random brain voxel an image whose `score` exceeds `margin`, or is near the best there is."""
    axes = tuple(range(1, score.ndim))
    inside = np.where(head.brain > 0.6, score, -np.inf)
    best = inside.max(axis=axes, keepdims=True)
    index = draws.place(inside >= np.minimum(margin, best - 0.1 * np.abs(best)))
    places = (np.arange(draws.count), *index)
    return tuple(draws.column(axis[places]) for axis in head.space[:3])


def _distance(head: Head, centre: tuple[Map, ...], draws: Draws) -> Map:
    """Distance from `centre`, mm, stretched along the axes at random."""
    offsets = ((axis - c) * draws.uniform((0.8, 1.25)) for axis, c in zip(head.space[:3], centre, strict=True))
    return length(*offsets)


_DRAWN = {"tumour": _tumour, "lesions": _lesions, "stroke": _stroke}
