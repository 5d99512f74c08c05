"""Processes that serve on a socket."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def short_folder():
    """A private folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def launch(short_folder):
    """Start stand-in vaults: `launch(turn_s=1)` gives the process, listening at `process.socket`, or ended."""
    started = []

    def start(*, socket=None, **settings):
        socket = socket or short_folder / "run" / "vault.sock"
        command = [sys.executable, STAND_IN, socket, json.dumps(settings)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        process.socket, process.said = socket, process.stdout.readline().strip()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
