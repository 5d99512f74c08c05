"""`manikin release verify`: yes or no, and a reason."""

import json

from manikin.common.errors import VerificationFailed

REFUSED = VerificationFailed.exit_code


def test_a_good_release_verifies(manikin, bundle, trust):
    code, out, _ = manikin("release", "verify", bundle, "--trust", trust, "--json")
    answer = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (answer["verified"], answer["signer"], answer["epsilon"]) == (True, "North", 2.5)
    assert "Verified: tiny, signed by North." in out
    assert "Next: manikin synthesize" in out


def test_a_changed_file_is_refused_without_a_traceback(manikin, bundle, trust):
    (bundle / "PRIVACY.md").write_text("ε = 0.1")
    code, out, err = manikin("release", "verify", bundle, "--trust", trust)
    assert code == REFUSED
    assert "Verified" not in out
    assert "'PRIVACY.md' has not the listed size" in err
    assert "Traceback" not in err


def test_a_missing_trust_file_is_refused_with_a_next_step(manikin, bundle, tmp_path):
    code, _, err = manikin("release", "verify", bundle, "--trust", tmp_path / "nowhere.json")
    assert code == REFUSED
    assert "Ask the coordinator" in err


def test_a_missing_bundle_is_refused(manikin, tmp_path, bundle, trust):
    code, _, err = manikin("release", "verify", tmp_path / "nowhere", "--trust", trust)
    assert code == REFUSED
    assert "not a release" in err


def test_a_trust_file_must_be_named(manikin, bundle):
    code, _, err = manikin("release", "verify", bundle)
    assert code == 2
    assert "--trust" in err
