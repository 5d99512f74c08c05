"""The pages: every command on them exists with these options, every link leads somewhere, and journeys are short."""

import re

import pytest
import typer

from manikin.cli.main import build

PAGES = ("hospital.md", "coordinator.md", "privacy-officer.md", "deploy.md")
CODE = re.compile(r"`manikin ([^`\n]+)`")


def unknown(words):
    """What of a command line does not exist."""
    command, rest = typer.main.get_command(build()), list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return words
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if word.startswith("--") and word.strip("[]") not in known]


@pytest.fixture(params=PAGES)
def page(request, repository):
    return (repository / "docs" / request.param).read_text()


def test_every_command_exists_with_these_options(page):
    lines = CODE.findall(page)
    assert lines
    assert [line for line in lines if unknown(line.split())] == []


def test_every_link_leads_somewhere(page, repository):
    for target in re.findall(r"\]\(([^)#]+)", page):
        assert (repository / "docs" / target).exists(), target


@pytest.mark.parametrize("name", ["hospital.md", "coordinator.md", "privacy-officer.md"])
def test_the_usual_journey_is_four_commands(repository, name):
    page = (repository / "docs" / name).read_text()
    numbered = re.findall(r"^\| (\d) \| .* \| `(manikin [^`]*)` \|$", page, re.MULTILINE)
    assert [number for number, _ in numbered] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "file"), [("hospital.md", "DIR/gateway/client.pem"), ("coordinator.md", "NAME.client.pem")]
)
def test_what_sync_needs_first_is_on_both_pages(repository, name, file):
    assert file in (repository / "docs" / name).read_text()


@pytest.mark.parametrize("line", ["hospital fly DIR", "hospital init DIR --wings", "coordinator run --plan X --bog"])
def test_what_does_not_exist_is_found(line):
    assert unknown(line.split())
