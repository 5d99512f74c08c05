"""The contact sheet has a row for each class and lies about none."""

import io

import numpy as np
from PIL import Image

from manikin.common.export.contact import COLUMNS, contact_sheet, flat, merge, tiles


def test_a_batch_gives_tiles_by_class(make_source, make_batch):
    source = make_source("png")
    found = tiles(make_batch(source))
    assert {label: len(row) for label, row in found.items()} == {0: 2, 1: 2}


def test_a_row_is_never_longer_than_the_sheet(make_source, make_batch):
    part = tiles(make_batch(make_source("png")))
    assert len(merge([part] * 20)[0]) == COLUMNS


def test_a_volume_shows_three_planes_upright():
    volume = np.full((4, 6, 5), -1, np.float32)
    volume[:, :, 4] = 1  # the top of the head
    tile = flat(volume)
    assert tile.shape == (6, 4 + 1 + 4 + 1 + 6)
    assert tile[0, 5:].max() == 255
    assert tile[4, 5:].max() == 0


def test_small_images_are_enlarged_and_the_sheet_is_a_png(make_source, make_batch):
    sheet = Image.open(io.BytesIO(contact_sheet(tiles(make_batch(make_source("png"))), ("normal", "pneu\nmonia"))))
    assert sheet.height > 2 * 90
    assert sheet.mode == "L"


def test_large_images_are_shrunk(make_source, make_batch):
    source = make_source("png", (400, 300))
    sheet = Image.open(io.BytesIO(contact_sheet(tiles(make_batch(source)), ("a", "b"))))
    assert sheet.height < 300
