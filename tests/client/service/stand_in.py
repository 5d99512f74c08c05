"""A stand-in for the vault in a process of its own: echoes frames, and misbehaves when a frame asks for it.

Run as `python stand_in.py SOCKET '{"turn_s": 1}'`; prints `ready` once it listens.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from manikin.client.service.server import VaultService, claim, prepare_directory, serve
from manikin.common.errors import ManikinError


class StandIn:
    def __init__(self, folder):
        self.folder, self.lock, self.inside, self.most, self.bad = folder, threading.Lock(), 0, 0, None

    def exchange(self, frame):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            return self.answer(frame)
        finally:
            with self.lock:
                self.inside -= 1

    def answer(self, frame):
        word, _, argument = frame[:100].decode("latin-1").partition(" ")
        if word == "sleep":
            time.sleep(float(argument))
            (self.folder / "slept").touch()
        elif word == "fail":
            raise RuntimeError("Jane Doe, born 1970-01-01")
        elif word == "count":
            self.bad = {"text": {"name": "Jane Doe"}, "nan": {"a": float("nan")}, "key": {"Jane Doe": 1.0}}[argument]
        return frame

    def counters(self):
        return self.bad or {"most_inside": self.most}


def main():
    path = Path(sys.argv[1])
    try:
        prepare_directory(path)
        with claim(path):
            service = VaultService(StandIn(path.parent), path, **json.loads(sys.argv[2]))
            serve(service, ready=lambda: print("ready", flush=True))
            os._exit(0)
    except ManikinError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
