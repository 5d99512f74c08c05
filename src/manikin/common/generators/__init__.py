"""Generator families: one module each, and the registry that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor

from manikin.common.errors import Misconfigured
from manikin.common.generators.base import (
    Generator,
    GeneratorSpec,
    Releasable,
    Trainable,
    TrainableGenerator,
    check_extent,
)

_FAMILIES = {
    "moments": ("manikin.common.generators.moments", "Moments"),
    "principal": ("manikin.common.generators.principal", "Principal"),
    "diffusion": ("manikin.common.generators.diffusion", "Diffusion"),
}


def families() -> tuple[str, ...]:
    """Names of the families that a plan may ask for."""
    return tuple(_FAMILIES)


def create(spec: GeneratorSpec) -> Generator:
    """An untrained generator of the spec's family. What a spec asks for is bounded before anything is made.

    Raises:
        Misconfigured: the family is unknown, an option is, or the generator would be too large.
    """
    if spec.family not in _FAMILIES:
        raise Misconfigured(
            f"There is no generator family {spec.family!r}.",
            f"The families are {', '.join(_FAMILIES)}.",
            "Change [generator] family in the study.",
        )
    check_extent(spec)
    module, name = _FAMILIES[spec.family]
    generator: Generator = getattr(import_module(module), name)(spec)
    return generator


def load(spec: GeneratorSpec, state: Mapping[str, Tensor]) -> Generator:
    """A generator with a state that was released or received."""
    generator = create(spec)
    generator.load_state(state)
    return generator


def private_names(spec: GeneratorSpec) -> frozenset[str]:
    """Names in the state of the tensors that patients' gradients may move; none where a family is not trained so.

    >>> spec = GeneratorSpec("diffusion", 1, (8, 8), ("a",), {"private_parameters": ["embedding"]})
    >>> sorted(private_names(spec))
    ['net.embedding.weight']
    """
    generator = create(spec)
    if not isinstance(generator, Trainable):
        return frozenset()
    before = _fingerprints(generator)
    with torch.no_grad():
        for parameter in generator.private_parameters():
            parameter.copy_((parameter == 0).to(parameter.dtype))  # every value becomes another one
    return frozenset(name for name, now in _fingerprints(generator).items() if now != before[name])


def _fingerprints(generator: Generator) -> dict[str, bytes]:
    """Of each tensor of a state: two states of a large generator need not be held at once."""
    return {name: hashlib.sha256(t.contiguous().numpy().data).digest() for name, t in generator.state().items()}


__all__ = [
    "Generator",
    "GeneratorSpec",
    "Releasable",
    "Trainable",
    "TrainableGenerator",
    "create",
    "families",
    "load",
    "private_names",
]
