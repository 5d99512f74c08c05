"""Files open with the right spacing, orientation and values."""

import nibabel
import numpy as np
import pytest

from manikin.common.export import nifti


def opened(source, batch, tmp_path, index=0):
    (name,) = nifti.names(source, index)
    (tmp_path / name).write_bytes(nifti.encode(source, batch)[name])
    return nibabel.load(tmp_path / name)


def test_volumes_are_ras_with_their_spacing(make_source, make_batch, tmp_path):
    source = make_source("nifti", (4, 6, 5), spacing=(1.0, 1.5, 2.5), window=(0.0, 1000.0))
    batch = make_batch(source)
    image = opened(source, batch, tmp_path)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (1.0, 1.5, 2.5))
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), source.picture.native(batch.images[0, 0]))


def test_the_centre_lies_at_the_origin(make_source, make_batch, tmp_path):
    source = make_source("nifti", (4, 6, 5), spacing=(1.0, 1.5, 2.5))
    affine = opened(source, make_batch(source), tmp_path).affine
    np.testing.assert_allclose(affine @ [1.5, 2.5, 2.0, 1.0], [0, 0, 0, 1], atol=1e-6)


def test_channels_are_the_fourth_axis(make_source, make_batch, tmp_path):
    source = make_source("nifti", (4, 6, 5), 2)
    assert opened(source, make_batch(source), tmp_path).shape == (4, 6, 5, 2)


def test_2d_images_become_one_slice_with_rows_from_the_front(make_source, make_batch, tmp_path):
    source = make_source("nifti", (8, 6), spacing=(2.0, 1.5))
    batch = make_batch(source)
    image = opened(source, batch, tmp_path)
    np.testing.assert_allclose(image.header.get_zooms()[:2], (1.5, 2.0))
    hung = image.get_fdata(dtype=np.float32)[::-1, ::-1, 0].T
    np.testing.assert_array_equal(hung, batch.images[0, 0])


def test_unknown_spacing_is_called_unknown(make_source, make_batch, tmp_path):
    source = make_source("nifti", (4, 6, 5))
    assert opened(source, make_batch(source), tmp_path).header.get_xyzt_units()[0] == "unknown"


def test_the_release_is_named_in_the_header(make_source, make_batch, tmp_path):
    source = make_source("nifti")
    description = bytes(opened(source, make_batch(source), tmp_path).header["descrip"]).decode()
    assert description.startswith("synthetic, release abab")


@pytest.mark.parametrize("shape", [(8, 6), (4, 6, 5)])
def test_the_same_batch_gives_the_same_bytes(make_source, make_batch, shape):
    source = make_source("nifti", shape)
    assert nifti.encode(source, make_batch(source)) == nifti.encode(source, make_batch(source))
