import pytest
import torch

from manikin.common.generators.unet import UNet, UNetShape, fold, unfold


@pytest.mark.parametrize("shape", [(2, 9), (8, 8), (7, 9), (6, 5, 7)])
@pytest.mark.parametrize("patch", [1, 2])
def test_folding_into_patches_can_be_undone(shape: tuple[int, ...], patch: int) -> None:
    images = torch.randn(2, 3, *shape)
    assert torch.equal(unfold(fold(images, patch), patch, images.shape), images)


def test_a_patch_becomes_the_channels_of_one_position() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert fold(image, 2)[0, :, 0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]


@pytest.mark.parametrize("shape", [(28, 28), (9, 11), (8, 12, 6)])
def test_output_has_the_shape_of_the_input_in_2d_and_3d(shape: tuple[int, ...]) -> None:
    net = UNet(UNetShape(len(shape), 1, 2, 8))
    images = torch.randn(2, 1, *shape)
    assert net(images, torch.zeros(2), torch.tensor([0, 2])).shape == images.shape


def test_groups_hold_each_parameter_once_and_all_holds_every_one() -> None:
    net = UNet(UNetShape(2, 1, 2, 8))
    groups = net.groups()
    parts = [id(p) for name, group in groups.items() if name != "all" for p in group]
    assert len(parts) == len(set(parts))
    assert {id(p) for p in groups["all"]} == {id(p) for p in net.parameters()} >= set(parts)
