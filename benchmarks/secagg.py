"""The named peer of `secure_sum.py`: Flower's SecAgg+, its own workflow and its own client side, in one process.

Messages are handed over as objects, without transport or serialisation beyond what the protocol itself does; nothing is
trained, no model is broadcast, and the strategy takes the sum and does no more. All of that is in the peer's favour.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from numpy.typing import NDArray

from manikin.embedded.grid import take_identity

SERVER_NODE, FIRST_NODE = 1, 100
WEIGHT = 1  # every hospital counts the same
THRESHOLD = 2 / 3  # of the shares; more than half, or a server could ask for both kinds of them
Float32 = NDArray[np.float32]


class InProcess:
    """As much of Flower's Grid as the workflow uses; notes the seconds of one core that each node works."""

    def __init__(self, vectors: Sequence[Float32]) -> None:
        take_identity(node_id=SERVER_NODE)
        self.seconds: dict[int, float] = defaultdict(float)
        self._contexts = {FIRST_NODE + i: _context(FIRST_NODE + i) for i in range(len(vectors))}
        self._trained = {FIRST_NODE + i: _trained(vector) for i, vector in enumerate(vectors)}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        del timeout
        return [self._ask(message) for message in messages]

    def _ask(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        records = {name: ConfigRecord(dict(record)) for name, record in message.content.config_records.items()}
        asked = Message(RecordDict({**message.content.array_records, **records}), metadata=message.metadata)
        began = time.process_time()
        answer = secaggplus_mod(asked, self._contexts[node], self._train)
        self.seconds[node] += time.process_time() - began
        return answer

    def _train(self, message: Message, context: Context) -> Message:
        return Message(self._trained.pop(context.node_id), reply_to=message)


class Whole(FedAvg):
    """Takes what the workflow summed, and fails where a node is missing."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.nodes, self.mean = nodes, None

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        del server_round, parameters, client_manager
        empty = Parameters([], "numpy.ndarray")
        return [(SimpleNamespace(node_id=FIRST_NODE + i), FitIns(empty, {})) for i in range(self.nodes)]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        del server_round
        if failures or len(results) != self.nodes:
            raise SystemExit(f"SecAgg+ failed: {failures}")
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


def run_secagg(vectors: Sequence[Float32], *, shares: int, clip: float) -> tuple[NDArray[Any], float, float]:
    """A whole round: the mean of the vectors, seconds of one core a node (the median), and of the whole round.

    Args:
        vectors: float32 (d,), one a node.
        shares: how many nodes, itself included, share a node's secrets and masks; all of them, or an odd number.
        clip: entries are cut to this; Flower's default is 8.

    Raises:
        SystemExit: a node did not answer.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    grid, strategy = InProcess(vectors), Whole(len(vectors))
    context = LegacyContext(_context(SERVER_NODE), strategy=strategy)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
    share = 1.0 if shares == len(vectors) else shares
    threshold = THRESHOLD if shares == len(vectors) else round(THRESHOLD * shares)
    workflow = SecAggPlusWorkflow(share, threshold, max_weight=float(WEIGHT), clipping_range=clip)
    began = time.process_time()
    workflow(grid, context)  # type: ignore[arg-type]
    whole = time.process_time() - began
    if strategy.mean is None:
        raise SystemExit("SecAgg+ was halted.")
    return strategy.mean, float(np.median(list(grid.seconds.values()))), whole


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def _trained(vector: Float32) -> RecordDict:
    """What a client's training left, made before the clock runs."""
    done = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), WEIGHT, {})
    return fitres_to_recorddict(done, keep_input=False)
