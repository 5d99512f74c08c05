"""The contact sheet: a few images of each class on one page, for looking before believing."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from manikin.common.export.batch import Batch
from manikin.common.export.picture import quantise
from manikin.common.images import Float32Array

COLUMNS = 8
TILE_PIXELS = 96  # small images are enlarged by whole factors to about this height, large ones shrunk to it
GAP, CAPTION = 4, 16
BACKGROUND, INK = 24, 230

Tile = NDArray[np.uint8]
Tiles = dict[int, list[Tile]]  # by class index


def tiles(batch: Batch) -> Tiles:
    """The first few images of each class in a batch, as flat grey pictures of their first channel."""
    found: Tiles = {}
    for _, image, label in batch:
        chosen = found.setdefault(label, [])
        if len(chosen) < COLUMNS:
            chosen.append(flat(image[0]))
    return found


def merge(parts: Sequence[Tiles]) -> Tiles:
    """Tiles of several batches, in their order, at most a row of each class."""
    merged: Tiles = {}
    for part in parts:
        for label, more in part.items():
            merged[label] = (merged.get(label, []) + more)[:COLUMNS]
    return merged


def flat(image: Float32Array) -> Tile:
    """One 2D picture: the image itself, or the three middle planes of a volume side by side, head and front up."""
    if image.ndim == 2:
        return quantise(image, 255).astype(np.uint8)
    x, y, z = (length // 2 for length in image.shape)
    planes = [image[:, :, z], image[:, y, :], image[x, :, :]]  # axial, coronal, sagittal
    upright = [quantise(plane.T[::-1, ::-1], 255).astype(np.uint8) for plane in planes]
    height = max(plane.shape[0] for plane in upright)
    padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, 1))) for plane in upright]
    return np.concatenate(padded, axis=1)[:, :-1]


def contact_sheet(found: Tiles, labels: Sequence[str]) -> bytes:
    """A PNG with one row a class.

    Args:
        found: at least one tile.
        labels: class names, for captions.
    """
    rows = [(labels[label], [_scaled(tile) for tile in found[label]]) for label in sorted(found)]
    width, height = (max(tile.size[axis] for _, row in rows for tile in row) for axis in (0, 1))
    sheet = Image.new("L", (COLUMNS * (width + GAP) + GAP, len(rows) * (height + CAPTION + GAP) + GAP), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (label, row) in enumerate(rows):
        top = GAP + number * (height + CAPTION + GAP)
        pen.text((GAP, top), label.replace("\n", " "), fill=INK, font=font)
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (width + GAP), top + CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _scaled(tile: Tile) -> Image.Image:
    picture = Image.fromarray(tile)
    width, height = picture.size
    if height <= TILE_PIXELS:
        factor = max(1, TILE_PIXELS // height)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return picture.resize((max(1, width * TILE_PIXELS // height), TILE_PIXELS), Image.Resampling.BILINEAR)
