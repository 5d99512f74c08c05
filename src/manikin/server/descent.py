"""The server's step in distributed mode: Adam and a running average of weights, fed by private sums of gradients.

Everything here is computed from what is private already, so it costs nothing. The state is plain tensors, so that a run
goes on from a checkpoint as if it had never stopped.

>>> weights = [torch.nn.Parameter(torch.zeros(2))]
>>> descent = Descent(weights, learning_rate=0.1, ema=0.0)
>>> descent.step(np.array([4.0, -2.0]))
>>> descent.finish()
>>> [round(w, 3) for w in weights[0].tolist()]
[-0.1, 0.1]

Adam: Kingma and Ba 2015; its second moment takes the noise's variance in too, which scales the step down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from manikin.privacy.engine import average_decay
from manikin.privacy.mechanisms import Vector


class Descent:
    """Moves weights in place, a step at a time.

    Args:
        parameters: the private parameters, in the order of the gradient's numbers.
        learning_rate: of Adam.
        ema: limit of the decay of the running average of weights that training ends with; 0 ends with the last weights.
        state: where it stood, from `state`; empty at the start of a stage.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        ema: float,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._parameters, self._ema = list(parameters), ema
        self._weights = nn.Parameter(torch.cat([p.detach().flatten() for p in self._parameters]))
        self._mean = self._weights.detach().clone()
        self._adam = torch.optim.Adam([self._weights], learning_rate)
        if state:
            self._mean = state["mean"].clone()
            self._adam.state[self._weights] = {n: state[n].clone() for n in ("step", "exp_avg", "exp_avg_sq")}

    def step(self, gradient: Vector) -> None:
        """One step along a private mean of gradients, float64 (d,)."""
        self._weights.grad = torch.from_numpy(np.asarray(gradient)).to(self._weights)
        self._adam.step()
        count = int(self._adam.state[self._weights]["step"])
        self._mean.lerp_(self._weights.detach(), 1 - average_decay(count, limit=self._ema))
        self._write(self._weights.detach())

    def state(self) -> dict[str, Tensor]:
        """All that a later `Descent` over the same weights needs; empty before the first step."""
        moments = self._adam.state[self._weights]
        return {"mean": self._mean, **{name: moments[name] for name in moments}} if moments else {}

    def finish(self) -> None:
        """Put the averages into the weights: the end of a stage."""
        self._write(self._mean)

    @torch.no_grad()
    def _write(self, flat: Tensor) -> None:
        sizes = [p.numel() for p in self._parameters]
        for p, part in zip(self._parameters, torch.split(flat, sizes), strict=True):
            p.copy_(part.reshape(p.shape))
