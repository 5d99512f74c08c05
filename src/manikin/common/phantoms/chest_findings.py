"""Findings of the chest: what they change on the way of a ray, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from manikin.common.phantoms.anatomy import ChestAnatomy
from manikin.common.phantoms.chest import Chest, draw_chest
from manikin.common.phantoms.fields import Draws, Map, band, dome, edge, length, mesh, ramp

CHEST_FINDINGS = ("normal", "pneumonia", "effusion", "nodule", "pneumothorax", "cardiomegaly")

Drawn = tuple[Map, Map]


def render_chest(
    anatomy: ChestAnatomy, findings: Sequence[str], draws: Draws, zoom: tuple[float, ...]
) -> tuple[Map, Map]:
    """Line integrals, and how much of each ray the finding covers (0 to 1), for one finding name an image.

    Returns:
        Two float32 maps (n, *grid). The second is empty for `normal` and `cardiomegaly`, which have no place.
    """
    names = np.array(findings)
    enlarged = draws.column(names == "cardiomegaly")
    chest = draw_chest(anatomy, draws, heart_scale=1.0 + enlarged * draws.uniform((0.3, 0.5)), zoom=zoom)
    depth, cover = chest.line_integral(), np.zeros_like(chest.x)
    for name, draw in _DRAWN.items():
        chosen = np.flatnonzero(names == name)
        if len(chosen):
            depth[chosen], cover[chosen] = draw(_subset(chest, chosen), Draws(draws.rng, len(chosen), draws.grid))
    return depth + _devices(anatomy, chest, draws), cover


def _subset(chest: Chest, chosen: Map) -> Chest:
    maps: dict[str, Any] = {name: value[chosen] for name, value in vars(chest).items() if isinstance(value, np.ndarray)}
    return replace(chest, **maps)


def _pneumonia(chest: Chest, draws: Draws) -> Drawn:
    """Haze over both lungs in some, one to three ragged patches in others, both in the rest."""
    ragged = draws.field((7.0, 7.0))
    patches = np.zeros_like(chest.x)
    for share in (1.0, 0.6, 0.35):
        row, column = _centre(chest, draws, margin=0.06)
        size = draws.uniform((0.18, 0.6))
        far = length(chest.x - column, (chest.v - row) * draws.uniform((0.7, 1.4))) / size
        patch = ramp(1.35 - far + 0.25 * ragged, 1.5) * draws.uniform((0.4, 1.0))
        patches = np.maximum(patches, patch * draws.chance(share))
    diffuse = draws.chance(0.6)
    haze = diffuse * draws.uniform((0.12, 0.5)) * np.clip(1.0 + 0.35 * draws.field((4.0, 4.0)), 0.0, 1.6)
    opacity = np.clip(np.maximum(patches, haze) + 0.3 * np.minimum(patches, haze), 0.0, 0.95) * chest.lung
    return chest.line_integral(opacity), np.clip(opacity / 0.5, 0.0, 1.0) * edge(chest.depth_inside, 0.06)


def _effusion(chest: Chest, draws: Draws) -> Drawn:
    """Fluid over the diaphragm of one side, climbing the wall as a meniscus; both sides in a few."""
    side, both = draws.side(), draws.chance(0.2)
    ax = np.abs(chest.x)
    here = np.maximum(both, side * chest.x > 0)
    floor = np.where(chest.lung > 0.5, chest.v, -np.inf).max(axis=(1, 2), keepdims=True)
    level = floor - draws.uniform((0.32, 0.8)) - 0.45 * np.clip(ax - 0.35, 0.0, 0.6) ** 1.6
    fluid = edge(chest.v - level, 0.1) * here * chest.lung
    return chest.line_integral(fluid), fluid * edge(chest.depth_inside, 0.06)


def _nodule(chest: Chest, draws: Draws) -> Drawn:
    """One ball of soft tissue, well inside a lung."""
    row, column = _centre(chest, draws, margin=0.12)
    radius = np.maximum(draws.uniform((0.06, 0.14)), 1.5 * chest.pixel)
    far = ((chest.x - column) ** 2 + (chest.v - row) ** 2) / radius**2
    return chest.line_integral() + draws.uniform((0.45, 0.9)) * dome(far), edge(1.0 - far, 0.2)


def _pneumothorax(chest: Chest, draws: Draws) -> Drawn:
    """Air without vessels between wall and collapsed lung, whose edge shows as a thin line."""
    side = draws.side()
    here = edge(side * chest.x, 0.05)
    retreat = draws.uniform((0.12, 0.4)) * (1.0 - 0.5 * np.clip(chest.v + 0.6, 0.0, 1.4))
    freed = here * edge(retreat - chest.depth_inside, 0.04) * edge(chest.depth_inside, 0.04) * edge(0.5 - chest.v, 0.3)
    line = here * band(chest.depth_inside - retreat, 0.012, chest.pixel) * edge(0.4 - chest.v, 0.3)
    collapsed = here * edge(chest.depth_inside - retreat, 0.04) * 0.2
    bare = replace(chest, vessels=chest.vessels * (1.0 - freed), lung_density=chest.lung_density * (1.0 - freed))
    return bare.line_integral(collapsed) + 0.25 * line, freed


def _centre(chest: Chest, draws: Draws, *, margin: float) -> tuple[Map, Map]:
    """Body coordinates (v, x) of one random place an image, at least `margin` inside a lung where there is one."""
    index = draws.place(
        chest.depth_inside > np.minimum(margin, 0.8 * chest.depth_inside.max(axis=(1, 2), keepdims=True))
    )
    places = (np.arange(draws.count), *index)
    return draws.column(chest.v[places]), draws.column(chest.x[places])


def _devices(anatomy: ChestAnatomy, chest: Chest, draws: Draws) -> Map:
    """Tubes and wires of some patients, and the side marker of some images."""
    if anatomy.devices == 0.0:
        return np.zeros_like(chest.x)
    lines = np.zeros_like(chest.x)
    for _ in range(3):
        swing, turns = draws.uniform((0.05, 0.5)), draws.uniform((0.8, 3.0))
        path = draws.uniform((-0.7, 0.7)) + swing * np.sin(turns * chest.v + draws.uniform((0.0, 6.3)))
        ends = edge(draws.uniform((-0.4, 1.5)) - chest.v, 0.05)
        lines = lines + draws.chance(anatomy.devices) * ends * band(chest.x - path, 0.012, chest.pixel)
    rows, columns = mesh(draws.grid)
    marker = band(rows + 0.82, 0.05, 0.03) * band(columns - draws.side() * 0.82, 0.03, 0.03) * draws.chance(0.25)
    return 0.35 * lines + 1.0 * marker


_DRAWN = {"pneumonia": _pneumonia, "effusion": _effusion, "nodule": _nodule, "pneumothorax": _pneumothorax}
