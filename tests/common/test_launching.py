"""Flower's programs, launched so that everything they say is a line of Manikin's own log."""

import importlib
import io
import json
import logging
import subprocess
import sys

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from manikin.common import launching
from manikin.common.logs import TEXT_MAX, Quoted, open_log


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def written():
    return io.StringIO()


@pytest.fixture
def record(written):
    """Log a record as Flower would, through a gateway's log."""
    words = launching._Words(open_log("gateway", stream=written).bind(program="supernode"))

    def say(text, level=logging.INFO, error=None):
        words.handle(logging.LogRecord("flwr", level, __file__, 1, text, (), error and sys.exc_info()))
        return lines(written.getvalue())

    return say


def test_whatever_a_program_says_and_prints_is_a_line_of_the_log():
    command = launching.command("gateway", "flower-supernode", "--no-such-option")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = lines(done.stderr)
    assert done.returncode == 2
    assert done.stdout == ""
    assert {(line["part"], line["program"], line["source"]) for line in said} == {("gateway", "supernode", "flower")}
    assert "Starting Flower SuperNode" in [line["event"] for line in said]
    assert "--no-such-option" in said[-1]["event"]


def test_an_exception_gives_its_kind_and_place_and_not_its_text(record):
    try:
        raise ValueError("Mustermann^Erika")
    except ValueError as error:
        (line,) = record("failed to load", logging.ERROR, error)
    assert (line["event"], line["level"], line["error"]) == ("failed to load", "error", "ValueError")
    assert line["at"].startswith("test_launching.py:")
    assert "Mustermann" not in json.dumps(line)


def test_empty_and_endless_words_are_bounded(record):
    assert record("  \n ") == []
    assert len(record("x" * 10 * TEXT_MAX)[0]["event"]) == TEXT_MAX


def test_a_vault_quotes_nobody(written):
    open_log("vault", stream=written).info(Quoted("Mustermann^Erika"))
    assert lines(written.getvalue())[0]["event"] == "other"


def test_a_server_that_flower_starts_speaks_through_it_too(tmp_path):
    code = (
        "import asyncio, flwr.supercore.logger, uvicorn\n"
        "from manikin.common.launching import speak_through\n"
        "from manikin.common.logs import open_log\n"
        "speak_through(open_log('gateway').bind(program='supernode'))\n"
        "server = uvicorn.Server(uvicorn.Config(None, port=0))\n"
        "server.should_exit = True\n"
        "uvicorn.config.logging.getLogger('uvicorn.error').warning('served')\n"
        "flwr.supercore.logger.log(30, 'said')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert [(line["event"], line["source"]) for line in lines(done.stderr)] == [
        ("served", "flower"),
        ("said", "flower"),
    ]


@pytest.mark.parametrize("kind", [TaskType.CLIENT_APP, TaskType.SERVER_APP])
def test_the_executor_launches_its_apps_the_same_way_and_throws_nothing_away(monkeypatch, kind):
    """Flower has no setting for it: this fails when an upgrade moves what is used."""
    starter, begun = importlib.import_module(launching.STARTER), []
    monkeypatch.setattr(starter, "subprocess", starter.subprocess)
    monkeypatch.setattr(launching.subprocess, "Popen", lambda *given, **settings: begun.append((*given, settings)))
    launching._launch_children("gateway")
    fields = dict.fromkeys(ExecutionSpec.__dataclass_fields__, "a:1")
    known = {"task_type": kind, "task_id": 1, "token": "t", "insecure": True, "suppress_output": True}
    SubprocessExecutor().launch(ExecutionSpec(**(fields | known)))
    ((arguments, settings),) = begun
    assert arguments[:5] == launching.command("gateway", "")[:5]
    assert launching.program_of(arguments[5]) == kind.removeprefix("flwr-")
    assert "--insecure" in arguments
    assert settings == {}
