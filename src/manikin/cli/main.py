"""The `manikin` command: registers the commands and turns errors into one clear message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click
import typer

from manikin import __version__
from manikin.common.errors import ManikinError, StorageFailure

INTERRUPTED_EXIT_CODE = 100
CLICK_INTERRUPTED = 130  # what typer gives back after Ctrl-C inside a command


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="manikin",
        help="Federated, privacy-preserving synthesis of medical images.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    groups = {
        "hospital": "What a hospital runs.",
        "coordinator": "What a coordinator runs.",
        "officer": "What a privacy officer holds.",
        "release": "Decide on a release, and check one.",
    }
    for name, text in groups.items():
        module = importlib.import_module(f"manikin.cli.{name}")
        app.add_typer(module.app, name=name, help=text)
    for name in ("federate", "demo", "synthesize", "evaluate"):
        module = importlib.import_module(f"manikin.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def _version(value: bool) -> None:
    if value:
        print(f"manikin {__version__}")
        raise typer.Exit


def _options(
    debug: bool = typer.Option(False, "--debug", help="Show a traceback with an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    del version
    click.get_current_context().meta["debug"] = debug


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; always ends with SystemExit."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # work goes side by side in processes: threads slow each other
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = build()(arguments, standalone_mode=False)
        if code == CLICK_INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        code = INTERRUPTED_EXIT_CODE
        print("Interrupted: what was finished is kept; run the same command again to go on.", file=sys.stderr)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ManikinError as error:
        code = _explain(debug, error)
    except OSError as error:
        code = _explain(
            debug,
            StorageFailure(
                f"A file could not be read or written: {error.filename or 'unknown'}.",
                f"The system says: {error.strerror or error}.",
                "Check the path, its permissions and the space left, then run the same command again.",
            ),
        )
    except KeyboardInterrupt:
        print("Interrupted: what was finished is kept; run the same command again to go on.", file=sys.stderr)
        code = INTERRUPTED_EXIT_CODE
    except Exception as error:  # noqa: BLE001 (the last resort: a person gets a sentence, never a traceback)
        kind = type(error).__name__
        code = _explain(
            debug, ManikinError("Something went wrong that should not.", f"{kind}: {error}", "Report it with --debug.")
        )
    sys.exit(code)


def _explain(debug: bool, error: ManikinError) -> int:
    """Print what, why and what to do, with `--debug` the traceback too; the exit code."""
    if debug:
        traceback.print_exc()
    for line in filter(None, (error.what, error.why, error.next_step)):
        print(line, file=sys.stderr)
    return error.exit_code
