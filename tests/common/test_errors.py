import pickle  # only to show that errors survive a process boundary

import pytest

from manikin.common import errors

KINDS = errors.ManikinError.__subclasses__()


def test_exit_codes_and_codes_differ_and_fit_a_shell():
    assert len({kind.exit_code for kind in KINDS}) == len({kind.code for kind in KINDS}) == len(KINDS)
    assert all(1 <= kind.exit_code <= 123 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_what_why_and_what_to_do(kind):
    error = kind("It broke.", "It was old.", "Mend it.")
    assert str(error) == "It broke. It was old. Mend it."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_exit_codes_lists_every_error(kind, repository):
    table = (repository / "docs" / "exit-codes.md").read_text()
    assert f"| {kind.exit_code} | `{kind.code}` |" in table
