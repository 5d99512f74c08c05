"""The log of a channel: who was asked what, who did not answer and why, and nothing of what was said."""

import io
import json

from manikin.common.logs import open_log
from manikin.common.wire import Task
from manikin.server.channel import Logged, Missing


class Hospitals:
    """One that is silent, and one that answers with ten bytes."""

    names = ("north", "Doe^Jane")
    bytes_in = bytes_out = 0

    def ask(self, tasks, *, deadline_s):
        self.bytes_in, self.bytes_out = self.bytes_in + 10, self.bytes_out + 20
        yield from ((name, Missing("deadline")) for name in tasks)


def test_each_step_is_logged_with_who_missed_it_and_only_hospitals_of_the_plan_by_name():
    written = io.StringIO()
    channel = Logged(Hospitals(), open_log("coordinator", stream=written, hospitals=["north"]))
    for step in (3, 4):
        task = Task("ab" * 32, step, "train", {"patients": "Doe^Jane"}, {})
        assert dict(channel.ask(dict.fromkeys(channel.names, task), deadline_s=1.0))["north"] == Missing("deadline")
    said = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["asking", "missed", "missed", "answered"] * 2
    assert [line.get("hospital") for line in said if line["event"] == "missed"] == ["north", None] * 2
    assert {(line["action"], line["plan"]) for line in said} == {("train", "ab" * 32)}
    assert [line["step"] for line in said] == [3] * 4 + [4] * 4
    assert (said[-1]["bytes_in"], said[-1]["bytes_out"], channel.bytes_in) == (10, 20, 20)
    assert "Doe" not in written.getvalue()
