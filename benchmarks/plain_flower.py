"""The named peer of `network.py`: a Flower app as its tutorials write one, which imports torch in every task.

Weights go to each node and come back changed, by `FedAvg`. Nothing is trained: only the carrying is compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Load the weights, and send as many back."""
    del context
    state = message.content["arrays"].to_torch_state_dict()
    changed = {name: tensor + 1 for name, tensor in state.items()}
    content = RecordDict({"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


class Complete(FedAvg):
    """FedAvg that fails where a node did not answer."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = list(replies)
        if len(answers) < self.min_train_nodes or any(answer.has_error() for answer in answers):
            raise RuntimeError(f"Round {server_round}: a node did not answer.")
        return super().aggregate_train(server_round, answers)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds of FedAvg once all nodes are there; the time after each, and before the first, goes to a file."""
    config = context.run_config
    nodes = int(config["nodes"])
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.2)

    def note(server_round: int, arrays: ArrayRecord) -> None:
        del arrays
        with Path(str(config["out"])).open("a") as file:
            file.write(f"{server_round} {time.time()}\n")

    weights = ArrayRecord({"weights": torch.rand(int(config["bytes"]) // 4)})
    strategy = Complete(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid, weights, num_rounds=int(config["rounds"]), evaluate_fn=note)
