"""`manikin officer init`, and what a coordinator makes of the card."""

import json
import stat

import pytest

from manikin.common.agreements import OfficerCard, introduced_by
from manikin.common.keys import SigningKey


def made(manikin, file, name="Ada Lim", institution="North Clinic"):
    code, out, err = manikin("officer", "init", file, "--name", name, "--institution", institution, "--json")
    return code, json.loads(out.splitlines()[-1]) if code == 0 else err


def test_an_officer_gets_a_private_key_a_card_and_a_fingerprint_to_read_out(manikin, tmp_path):
    code, said = made(manikin, tmp_path / "ada.pem")
    assert code == 0
    assert stat.S_IMODE((tmp_path / "ada.pem").stat().st_mode) == 0o600
    card = introduced_by((tmp_path / "ada.dsse.json").read_bytes(), OfficerCard)
    assert (card.name, card.institution) == ("Ada Lim", "North Clinic")
    assert bytes.fromhex(card.key) == SigningKey.load(tmp_path / "ada.pem").public_key
    assert len(said["fingerprint"].replace(" ", "")) == 64


def test_a_key_or_a_card_is_never_overwritten(manikin, tmp_path):
    made(manikin, tmp_path / "ada.pem")
    before = [(tmp_path / name).read_bytes() for name in ("ada.pem", "ada.dsse.json")]
    assert made(manikin, tmp_path / "ada.pem")[0] == 10
    (tmp_path / "ada.dsse.json").unlink()
    assert made(manikin, tmp_path / "ada.pem")[0] == 10
    assert (tmp_path / "ada.pem").read_bytes() == before[0]


@pytest.mark.parametrize(("name", "institution"), [("../Ada", "N"), ("Ada", ""), ("A\nda", "N"), ("A" * 65, "N")])
def test_a_name_that_is_none_makes_no_key(manikin, tmp_path, name, institution):
    code, err = made(manikin, tmp_path / "ada.pem", name, institution)
    assert code == 10
    assert "--name or --institution" in err
    assert not list(tmp_path.iterdir())


def test_a_coordinator_accepts_officers_and_says_how_many_are_needed(manikin, tmp_path):
    home = tmp_path / "c"
    manikin("coordinator", "init", home, "--name", "Study", "--address", "h:1")
    said = []
    for name, institution in (("Ada", "North"), ("Bo", "South")):
        print_out = made(manikin, tmp_path / f"{name}.pem", name, institution)[1]["fingerprint"]
        said += ["--fingerprint", print_out[:19]]
    cards = [tmp_path / "Ada.dsse.json", tmp_path / "Bo.dsse.json"]
    assert manikin("coordinator", "enroll", *cards, "--coordinator", home)[0] == 17
    code, out, _ = manikin("coordinator", "enroll", *cards, "--coordinator", home, *said, "--json")
    assert code == 0
    assert "Officers: Ada (North), Bo (South)." in out
    assert set(json.loads(out.splitlines()[-1])["officers"]) == {"Ada", "Bo"}
    (tmp_path / "study.toml").write_text("")
    code, _, err = manikin("coordinator", "propose", tmp_path / "study.toml", "--coordinator", home)
    assert code == 10
    assert "how many must approve" in err
    code, out, _ = manikin("coordinator", "enroll", "--coordinator", home, "--revoke", "Bo")
    assert (code, "Officers: Ada (North)." in out) == (0, True)
