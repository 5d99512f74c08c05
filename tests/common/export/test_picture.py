"""Native units come back, and nonsense in a release is refused."""

import numpy as np
import pytest

from manikin.common.errors import VerificationFailed
from manikin.common.export.picture import Picture, quantise

DATA = {"modality": "CT", "spatial_dims": 2, "spacing_mm": [1.0, 2.0], "window": [-1000, 3000]}


def test_a_window_maps_back_to_native_units():
    images = np.array([-1, 0, 1], np.float32)
    assert Picture.of(DATA).native(images).tolist() == [-1000, 1000, 3000]


def test_without_a_window_values_stay():
    images = np.array([-1, 0, 1], np.float32)
    picture = Picture.of(DATA | {"window": None})
    assert picture.native(images) is images
    assert "no native scale" in picture.units


def test_unknown_spacing_is_one_where_a_format_must_state_it():
    assert Picture.of(DATA | {"spacing_mm": None}).spacing == (1.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [{"spacing_mm": [1.0]}, {"spacing_mm": [0.0, 1.0]}, {"spacing_mm": [float("nan"), 1]}, {"window": [1, 1]}],
    ids=str,
)
def test_nonsense_is_refused(change):
    with pytest.raises(VerificationFailed):
        Picture.of(DATA | change)


def test_whole_numbers_span_the_range_and_round_to_the_nearest():
    assert quantise(np.array([-1, -0.5, 0, 1], np.float32), 4).tolist() == [0, 1, 2, 4]
