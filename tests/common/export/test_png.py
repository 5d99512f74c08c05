"""Pictures are 8-bit, upright, and refused where they would lie."""

import io

import numpy as np
import pytest
from PIL import Image

from manikin.common.errors import Misconfigured
from manikin.common.export import png


def test_grey_pictures_span_black_to_white(make_source, make_batch):
    source = make_source("png")
    batch = make_batch(source)
    content = png.encode(source, batch)["synth-000000.png"]
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert (pixels.shape, pixels.min(), pixels.max()) == ((8, 6), 0, 255)
    assert np.abs(pixels / 127.5 - 1 - batch.images[0, 0]).max() < 0.5 / 127


def test_three_channels_become_colours(make_source, make_batch):
    source = make_source("png", channels=3)
    content = png.encode(source, make_batch(source))["synth-000001.png"]
    assert Image.open(io.BytesIO(content)).mode == "RGB"


def test_files_have_the_names_that_labels_give_them(make_source, make_batch):
    source = make_source("png")
    assert list(png.encode(source, make_batch(source))) == [png.names(source, index)[0] for index in range(4)]


@pytest.mark.parametrize(("shape", "channels"), [((4, 6, 5), 1), ((8, 6), 2)])
def test_what_is_no_picture_is_refused_with_a_hint(make_source, shape, channels):
    with pytest.raises(Misconfigured, match="--format nifti"):
        png.check(make_source("png", shape, channels))
