"""What a spec may ask for is bounded before anything of its size is made: a plan comes from another party."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manikin.common import generators
from manikin.common.errors import Misconfigured
from manikin.common.generators import GeneratorSpec, private_names

ROOM_BYTES = 256 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """So little is left that whoever makes what was asked for gets a MemoryError or a RuntimeError."""
    if sys.platform != "linux":
        pytest.skip("a process knows its size on Linux")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def spec(family: str, options: dict[str, Any], shape: tuple[int, ...] = (64, 64), classes: int = 2) -> GeneratorSpec:
    return GeneratorSpec(family, 1, shape, tuple(map(str, range(classes))), options)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "options",
    [
        {"channels": 1 << 14},
        {"levels": 9},
        {"embedding": 1 << 40},
        {"patch": 1 << 14},
        {"channels": 1024, "levels": 8},
        {"channels": 512, "patch": 8, "levels": 4, "embedding": 1024},
        {"sampler_steps": 1 << 40},
        {"start_noise": float("inf")},
        {"guidance": float("nan")},
    ],
)
def test_a_network_of_absurd_size_is_refused_before_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        generators.create(spec("diffusion", options, (8, 8, 8)))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("options", "classes"),
    [({"coefficients": 1 << 40}, 2), ({"coefficients": 1024}, 100), ({"bands": 17}, 2), ({"middle": 1 << 40}, 2)],
)
def test_moments_of_absurd_size_are_refused_before_they_are_made(options: dict[str, Any], classes: int) -> None:
    with pytest.raises(Misconfigured):
        generators.create(spec("moments", options, (512, 512), classes))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("family", generators.families())
@pytest.mark.parametrize(
    "shape", [(1 << 40, 1 << 40), (1 << 15, 8), (2048, 2048, 64), (0, 8)], ids=lambda s: "x".join(map(str, s))
)
def test_images_of_absurd_size_are_refused_before_they_are_made(family: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(Misconfigured, match="images"):
        generators.create(spec(family, {}, shape))


@pytest.mark.usefixtures("little_memory")
def test_one_image_of_each_of_very_many_classes_is_too_many() -> None:
    with pytest.raises(Misconfigured, match="would hold"):
        generators.create(spec("diffusion", {}, (512, 512), 300))


def test_what_studies_ask_for_is_made() -> None:
    for family, options, shape in (
        ("diffusion", {"channels": 64, "levels": 4}, (64, 64)),
        ("diffusion", {"channels": 32, "levels": 3}, (16, 16, 16)),
        ("moments", {"coefficients": 300, "bands": 12, "middle": 500}, (64, 64)),
    ):
        assert generators.create(spec(family, options, shape)).state()


def test_what_gradients_may_move_is_known_by_name_in_every_family() -> None:
    chosen = private_names(spec("diffusion", {"private_parameters": ["embedding", "output"]}))
    assert chosen == {"net.embedding.weight", "net.output.weight", "net.output.bias"}
    state = generators.create(spec("diffusion", {})).state()
    assert private_names(spec("diffusion", {"private_parameters": ["all"]})) == set(state) - {"shift"}
    assert not private_names(spec("moments", {}))
