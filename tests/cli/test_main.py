"""The command line as a person meets it: quick help, one clear message an error, codes from the table."""

import subprocess
import sys
import time

import pytest

from manikin.cli import main as command_line
from manikin.common.errors import BadData


def run(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_help_lists_every_command(capsys):
    code, out, _ = run(["--help"], capsys)
    assert code == 0
    for name in ("hospital", "federate", "demo", "synthesize", "evaluate", "release"):
        assert name in out


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from manikin.cli.main import build; build();"
        "print([m for m in ('torch', 'monai', 'flwr', 'numpy', 'matplotlib', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_option_is_a_usage_error(capsys):
    code, _, err = run(["demo", "--nonsense"], capsys)
    assert code == 2
    assert "--nonsense" in err


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_three_sentences_and_a_traceback_only_with_debug(monkeypatch, capsys, debug):
    def fails(*_):
        def command(arguments, standalone_mode):
            raise BadData("It is junk.", "No scan was found.", "Give another folder.")

        return command

    monkeypatch.setattr(command_line, "build", fails)
    code, _, err = run(["--debug"] if debug else [], capsys)
    assert code == BadData.exit_code
    assert err.endswith("It is junk.\nNo scan was found.\nGive another folder.\n")
    assert ("Traceback" in err) is debug


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (FileNotFoundError(2, "No such file or directory", "/proc/x"), 18, "/proc/x"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError"),
    ],
)
def test_what_nobody_foresaw_is_a_sentence_too(monkeypatch, capsys, error, code, says):
    def fails(*_):
        raise error

    monkeypatch.setattr(command_line, "build", fails)
    ended, _, err = run([], capsys)
    assert ended == code
    assert says in err
    assert "Traceback" not in err


def test_ctrl_c_says_that_what_was_finished_is_kept(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "build", interrupted)
    code, _, err = run([], capsys)
    assert code == command_line.INTERRUPTED_EXIT_CODE
    assert "kept" in err


def test_the_console_script_starts():
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "manikin", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("manikin 0.")
    assert time.monotonic() - started < 60
