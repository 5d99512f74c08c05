"""Archives hold images, axes, labels and names as an import reads them."""

import io

import numpy as np
import pytest

from manikin.common.export import npz


def read(source, batch):
    (content,) = npz.encode(source, batch).values()
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize(
    ("shape", "channels", "axes", "expected"),
    [
        ((8, 6), 1, "NHW", (4, 8, 6)),
        ((8, 6), 3, "NHWC", (4, 8, 6, 3)),
        ((4, 6, 5), 1, "NDHW", (4, 4, 6, 5)),
        ((4, 6, 5), 2, "NCDHW", (4, 2, 4, 6, 5)),
    ],
)
def test_axes_say_where_channels_are(make_source, make_batch, shape, channels, axes, expected):
    source = make_source("npz", shape, channels)
    arrays = read(source, make_batch(source))
    assert (str(arrays["axes"]), arrays["images"].shape) == (axes, expected)
    assert arrays["images"].dtype == np.float32


def test_labels_names_and_patients_come_along(make_source, make_batch):
    source = make_source("npz", spacing=(2.0, 1.5))
    arrays = read(source, make_batch(source))
    assert arrays["labels"].tolist() == [0, 1, 0, 1]
    assert arrays["class_names"].tolist() == ["normal", "pneumonia"]
    assert arrays["spacing_mm"].tolist() == [2.0, 1.5]
    assert len(set(arrays["patients"])) == 4


def test_values_are_native_where_there_is_a_window(make_source, make_batch):
    source = make_source("npz", window=(0.0, 255.0))
    arrays = read(source, make_batch(source))
    assert (arrays["images"].min(), arrays["images"].max()) == (0, 255)


def test_the_same_batch_gives_the_same_bytes(make_source, make_batch):
    source = make_source("npz")
    assert npz.encode(source, make_batch(source)) == npz.encode(source, make_batch(source))
