"""Gradients of several patients out of one shared pass: large batches for the layers, one gradient for each patient.

Small convolutions cost more to start than to run, so a backward pass for each patient wastes most of a small image's
time. Here the rows of several patients go forward and backward together, the backward pass stops at the outputs of the
layers, and only the weights' gradients, a small part of the work, are computed patient by patient. (Per-sample
libraries do the same row by row: K draws of an image cost them K gradients.)

Promised: the gradients that a pass for each patient gives, up to rounding in float32; and as many rows in every pass,
so that kernels have no reason to add in another order when others are drawn. (Where this was tried, a gradient had the
same bits whoever else was in the pass; a library that lets rows touch each other's rounding would break that.)

Per-sample gradients from a layer's input and its output's gradient: Goodfellow 2015; Rochette, Manoel and Tramel 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from manikin.common.generators.base import Shareable, Trainable


def modules_of(model: Trainable) -> list[nn.Module]:
    """The model's modules: a family is a module or holds some."""
    roots = [model] if isinstance(model, nn.Module) else [v for v in vars(model).values() if isinstance(v, nn.Module)]
    return [module for root in roots for module in root.modules()]


class SharedPass:
    """One forward and one backward pass over the rows of several patients.

    Args:
        model: whose loss is differentiated.
        parameters: those whose gradients are wanted, in the order of the flat gradient; no other one asks for any.
        patients: in a pass. One that is not full is filled up with rows that count for nobody: every pass has the same
            shape, and no kernel chooses another order of additions because one patient more or less was drawn.
    """

    def __init__(self, model: Shareable, parameters: Sequence[nn.Parameter], *, patients: int) -> None:
        self._model, self._owners = model, _owners(model, parameters)
        ends = torch.tensor([p.numel() for p in parameters]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        self._places = {id(p): slice(a, b) for p, a, b in zip(parameters, starts, ends, strict=True)}
        self._written: set[int] = set()
        self._gradients = torch.empty(patients, ends[-1], device=parameters[0].device)

    def gradients(self, drawn: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """Float32 gradients (n, d), overwritten by the next call, and mean losses (n,).

        Args:
            drawn: what `model.draw` gave for each of n patients, the same number of rows for all.
        """
        full, roots = len(self._gradients), list[Tensor]()
        gradients, filled = self._gradients[: len(drawn)], [*drawn, *[drawn[-1]] * (full - len(drawn))]
        with _watched(self._owners, lambda *call: self._note(gradients, *call), roots):
            rows = [torch.cat(part).to(gradients.device) for part in zip(*filled, strict=True)]
            losses = self._model.error(*rows).reshape(full, -1).mean(1)[: len(drawn)]
        self._written.clear()
        torch.autograd.grad(losses.sum(), roots)  # for what `_note` does on the way
        for key in self._places.keys() - self._written:
            gradients[:, self._places[key]] = 0.0
        return gradients, losses.detach()

    @torch.no_grad()
    def _note(self, gradients: Tensor, module: nn.Module, x: Tensor, slope: Tensor) -> None:
        for name, p in module.named_parameters(recurse=False):
            if id(p) not in self._places:
                continue
            part = gradients[:, self._places[id(p)]]
            present = len(x) * len(part) // len(self._gradients)
            values = RULES[type(module), name](module, x[:present], slope[:present], len(part)).reshape(part.shape)
            part.add_(values) if id(p) in self._written else part.copy_(values)
            self._written.add(id(p))


def can_share(model: Trainable, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the model's loss comes in two halves, and the parameters belong to layers that are known here."""
    if not isinstance(model, Shareable):
        return False
    return all(_known(module) for module in _owners(model, parameters))


def _owners(model: Trainable, parameters: Sequence[nn.Parameter]) -> list[nn.Module]:
    wanted = {id(p) for p in parameters}
    return [m for m in modules_of(model) if any(id(p) in wanted for p in m.parameters(recurse=False))]


def _known(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters(recurse=False)]
    if isinstance(module, nn.Embedding) and (module.padding_idx is not None or module.max_norm is not None):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and (
        isinstance(module.padding, str) or module.padding_mode != "zeros"
    ):
        return False
    return all((type(module), name) in RULES for name in names)


@contextmanager
def _watched(
    owners: Sequence[nn.Module], note: Callable[[nn.Module, Tensor, Tensor], None], roots: list[Tensor]
) -> Iterator[None]:
    """Have the backward pass tell input and output gradient of each call of these modules, at once, so that it need not
    keep them; `roots` are the outputs that it must reach, those of modules that no other one comes before."""

    def watch(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        x = arguments[0]
        if not x.requires_grad:
            roots.append(output)
        output.register_hook(lambda slope: note(module, x.detach(), slope))  # type: ignore[no-untyped-call]

    handles = [module.register_forward_hook(watch) for module in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _convolution_weight(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if set(module.kernel_size) == set(module.stride) == {1} and set(module.padding) == {0} and module.groups == 1:
        return _products(slope.movedim(1, -1), x.movedim(1, -1), count)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    weight = module.weight.contiguous(memory_format=layouts.get(x.ndim, torch.contiguous_format))
    geometry = (module.stride, module.padding, module.dilation, False, [0] * (x.ndim - 2), module.groups)
    parts = zip(x.chunk(count), slope.chunk(count), strict=True)
    only_weight = [False, True, False]
    return torch.stack(
        [torch.ops.aten.convolution_backward(g, xs, weight, None, *geometry, only_weight)[1] for xs, g in parts]
    )


def _channel_sum(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    del module, x
    return slope.movedim(1, -1).reshape(count, -1, slope.shape[1]).sum(1)


def _linear_weight(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    del module
    return _products(slope, x, count)


def _linear_bias(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    del module, x
    return slope.reshape(count, -1, slope.shape[-1]).sum(1)


def _norm_weight(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    assert isinstance(module, nn.GroupNorm)
    parts = zip(x.chunk(count), slope.chunk(count), strict=True)  # one patient fits a core's cache
    return torch.stack([_norm_weight_of_one(module, xs, g) for xs, g in parts])


def _norm_weight_of_one(module: nn.GroupNorm, x: Tensor, slope: Tensor) -> Tensor:
    normed = functional.group_norm(x, module.num_groups, eps=module.eps).mul_(slope)
    return normed.movedim(1, -1).reshape(-1, x.shape[1]).sum(0)


def _embedding_weight(module: nn.Module, x: Tensor, slope: Tensor, count: int) -> Tensor:
    assert isinstance(module, nn.Embedding)
    rows, size = module.weight.shape
    owner = torch.arange(count, device=x.device).repeat_interleave(x.numel() // count)
    sums = torch.zeros(count * rows, size, device=x.device)
    return sums.index_add_(0, x.flatten() + rows * owner, slope.reshape(-1, size)).reshape(count, rows, size)


def _products(slope: Tensor, x: Tensor, count: int) -> Tensor:
    """Sum over a patient's rows and positions of output gradient times input: (count, outputs, inputs)."""
    left = slope.reshape(count, -1, slope.shape[-1]).transpose(1, 2)
    return torch.bmm(left, x.reshape(count, -1, x.shape[-1]))


Rule = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
RULES: dict[tuple[type[nn.Module], str], Rule] = {
    (nn.Linear, "weight"): _linear_weight,
    (nn.Linear, "bias"): _linear_bias,
    (nn.GroupNorm, "weight"): _norm_weight,
    (nn.GroupNorm, "bias"): _channel_sum,
    (nn.Embedding, "weight"): _embedding_weight,
    **{(kind, "weight"): _convolution_weight for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
    **{(kind, "bias"): _channel_sum for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
}
