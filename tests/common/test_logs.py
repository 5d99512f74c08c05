"""Log lines: only listed events and fields get out, whatever a program or a library tries to say."""

import io
import json
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.logs import FIELDS, Event, open_log

NAME = "Mustermann^Erika"


@pytest.fixture
def written():
    return io.StringIO()


@pytest.fixture
def log(written):
    return open_log("vault", stream=written)


def lines(written):
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(log, written):
    log.info("answered", plan="ab" * 32, step=3, action="train", seconds=1.5, bytes_out=10)
    (line,) = lines(written)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "part": "vault",
        "event": "answered",
        "plan": "ab" * 32,
        "step": 3,
        "action": "train",
        "seconds": 1.5,
        "bytes_out": 10,
    }


def test_plain_lines_are_for_people(written):
    open_log("gateway", stream=written, plain=True).warning("restarting", attempt=2)
    assert written.getvalue().endswith("level='warning' part='gateway' event='restarting' attempt=2\n")


def test_what_is_not_listed_is_dropped_and_counted(log, written):
    log.info(f"imported {NAME}", patient=NAME, step=NAME, plan=NAME, code=NAME, hospital=NAME, seconds=float("nan"))
    (line,) = lines(written)
    assert (line["event"], line["dropped"]) == ("other", 6)
    assert NAME not in written.getvalue()


def test_only_hospitals_of_the_plan_are_named(written):
    log = open_log("coordinator", stream=written, hospitals=["north"])
    log.warning("missed", hospital="north", code="deadline")
    log.warning("missed", hospital=NAME, code="deadline")
    assert [line.get("hospital") for line in lines(written)] == ["north", None]


@given(
    st.sampled_from([*FIELDS, "patient", "exc_info", "event", "level"]),
    st.text(min_size=1),
    st.sampled_from(get_args(Event)),
)
def test_no_free_text_gets_out_through_any_field(key, text, event):
    """Whatever is written besides is a fixed word, a number or a digest."""
    marked = f"⟦{text}⟧"
    written = io.StringIO()
    open_log("vault", stream=written).bind(**{key: marked}).info(event, **{key: [marked]} if key != "event" else {})
    assert "⟦" not in written.getvalue()
    assert "\\u27e6" not in written.getvalue()


def test_an_exception_gives_its_kind_and_not_its_text(log, written):
    try:
        raise ValueError(NAME)
    except ValueError:
        log.exception("failed", code="error")
    (line,) = lines(written)
    assert line["error"] == "ValueError"
    assert NAME not in written.getvalue()


SPEAKS = f"""
import logging, sys, threading, warnings
from manikin.common.logs import open_log, take_over
take_over(open_log("vault"))
logging.getLogger("pydicom").warning("Invalid value for VR PN: {NAME}")
logging.getLogger("{NAME}").error("{NAME}")
warnings.warn("{NAME}")
thread = threading.Thread(target=lambda: 1 / 0, name="{NAME}"); thread.start(); thread.join()
raise ValueError("{NAME}")
"""


def test_libraries_warnings_and_crashes_speak_through_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", SPEAKS], capture_output=True, text=True, cwd=tmp_path, check=False)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line.get("library"), line.get("error")) for line in said] == [
        ("library", "pydicom", None),
        ("library", "other", None),
        ("library", "py", None),
        ("crashed", None, "ZeroDivisionError"),
        ("crashed", None, "ValueError"),
    ]
    assert done.returncode == 1
    assert NAME not in done.stderr + done.stdout


def test_debug_lines_stay_unsaid(log, written):
    log.debug("answered", step=1)
    assert written.getvalue() == ""
