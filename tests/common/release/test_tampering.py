"""The tamper matrix over a release that officers decided on: whatever is done to it, verification says no."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from manikin.common import generators
from manikin.common.documents import sign
from manikin.common.errors import VerificationFailed
from manikin.common.keys import SigningKey, load_trust, write_trust
from manikin.common.release import load_release, open_candidate, verify_bundle
from manikin.common.release.bundle import write_bundle, write_decided
from manikin.common.release.facts import ENVELOPE_FILE, PREDICATE_TYPE
from manikin.common.release.reading import read_listed

FILES = (
    "generator.safetensors",
    "spec.json",
    "plan.json",
    "README.md",
    "configs/metadata.json",
    "privacy.json",
    "PRIVACY.md",
    "audit.dsse.json",
    "audit/report.json",
    "ledger-heads.json",
    "decisions/Ada",  # stands for the officer's file
    "decisions/Bo",
    "release.dsse.json",
)


@pytest.fixture(scope="module")
def made(form_consortium, tmp_path_factory):
    """A release, an older one of another generator of the same plan, and one of another plan. Do not change."""
    consortium, folder = form_consortium("north", "south"), tmp_path_factory.mktemp("decided")
    plan, others = consortium.plan(), consortium.plan(noise=6.0)

    def released(name, **options):
        candidate = consortium.candidate(folder / f"{name}-candidate", **options)
        said = {officer: consortium.decision(candidate, officer) for officer in ("Ada", "Bo")}
        return SimpleNamespace(
            candidate=candidate, said=said, bundle=consortium.release(folder / name, candidate, said)
        )

    return SimpleNamespace(
        consortium=consortium,
        plan=plan,
        trust=consortium.write_trust(folder / "trust.json", plan),
        now=released("now", plan=plan),
        older=released("older", plan=plan, seed=1),
        elsewhere=released("elsewhere", plan=others),
    )


@pytest.fixture
def bundle(made, tmp_path):
    """A copy to tamper with."""
    return shutil.copytree(made.now.bundle, tmp_path / "bundle")


def at(made, bundle, name):
    """A file of a bundle by the name that it has here."""
    folder, _, officer = name.partition("/")
    if folder == "decisions":
        return bundle / "decisions" / f"{made.consortium.keys[officer].public_key.hex()}.dsse.json"
    return bundle / name


def refused(made, bundle, why=None, *, trust=None):
    with pytest.raises(VerificationFailed) as caught:
        verify_bundle(bundle, trust or made.trust)
    assert (why or "") in str(caught.value)


def resign(made, folder, candidate, **said):
    """What a coordinator signs who checks nothing."""
    return made.consortium.release(folder, candidate, said)


def test_an_untouched_release_verifies_and_names_who_decided(made):
    for found in (made.now, made.older):
        release = verify_bundle(found.bundle, made.trust)
        assert [decision.officer for decision in release.decisions] == ["Ada", "Bo"]
        assert release.audit.verdict == "pass"
    assert load_release(made.now.bundle).decisions == ()


def test_the_matrix_covers_every_file(made):
    found = {path for path in made.now.bundle.rglob("*") if path.is_file()}
    assert found == {at(made, made.now.bundle, name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_refused(made, bundle, name, share):
    path = at(made, bundle, name)
    content = bytearray(path.read_bytes().rstrip(b"\n"))
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content + path.read_bytes()[len(content) :])
    refused(made, bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_dropped_file_is_refused(made, bundle, name):
    at(made, bundle, name).unlink()
    refused(made, bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, -2], ids=["emptied", "cut"])
def test_a_cut_file_is_refused(made, bundle, name, kept):
    path = at(made, bundle, name)
    path.write_bytes(path.read_bytes()[:kept])
    refused(made, bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_release_is_refused(made, bundle, name):
    for other in (made.older, made.elsewhere):
        content = at(made, other.bundle, name).read_bytes()
        if content != at(made, made.now.bundle, name).read_bytes():
            at(made, bundle, name).write_bytes(content)
            refused(made, bundle)
            shutil.copy(at(made, made.now.bundle, name), at(made, bundle, name))
    verify_bundle(bundle, made.trust)


@pytest.mark.parametrize("name", FILES)
def test_swapped_files_are_refused(made, bundle, name):
    one, other = (at(made, bundle, n) for n in (name, FILES[FILES.index(name) - 1]))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    refused(made, bundle)


@pytest.mark.parametrize("name", ["decisions/more.dsse.json", "audit/more.json", "candidate.dsse.json", "trust.json"])
def test_an_added_file_is_refused(made, bundle, name):
    shutil.copy(at(made, made.now.bundle, "decisions/Ada"), bundle / name)
    refused(made, bundle, "not listed")


def test_an_older_signature_is_refused_over_other_files(made, bundle):
    for older in (made.older, made.elsewhere):
        shutil.copy(older.bundle / "release.dsse.json", bundle)
        refused(made, bundle, "listed")


def test_a_whole_release_of_another_plan_is_refused_though_the_same_people_decided(made):
    refused(made, made.elsewhere.bundle, "another plan")


@pytest.mark.parametrize("older", ["older", "elsewhere"])
def test_older_decisions_are_refused_though_the_coordinator_signs_them_in(made, tmp_path, older):
    said = getattr(made, older).said
    refused(made, resign(made, tmp_path / "b", made.now.candidate, **said), "on another candidate")


def test_a_release_with_too_few_decisions_is_refused_though_signed(made, tmp_path):
    refused(made, resign(made, tmp_path / "none", made.now.candidate), "0 officers")
    refused(made, resign(made, tmp_path / "one", made.now.candidate, Ada=made.now.said["Ada"]), "1 officers")


def test_a_release_with_a_refusal_is_refused_though_signed(made, tmp_path):
    against = made.consortium.decision(made.now.candidate, "Cy", "refuse")
    refused(made, resign(made, tmp_path / "b", made.now.candidate, **made.now.said, Cy=against), "Cy refuses")


def test_a_junk_decision_is_refused_though_signed(made, tmp_path):
    refused(made, resign(made, tmp_path / "b", made.now.candidate, **made.now.said, Cy=b"{}"), "not well-formed")


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_a_release_without_a_passing_audit_is_refused_though_signed_and_approved(made, tmp_path, verdict):
    candidate = made.consortium.candidate(tmp_path / "candidate", plan=made.plan, verdict=verdict)
    said = {name: made.consortium.decision(candidate, name) for name in ("Ada", "Bo")}
    refused(made, resign(made, tmp_path / "b", candidate, **said), verdict.removesuffix("lusive"))


@pytest.mark.parametrize("missing", ["audit.dsse.json", "ledger-heads.json"])
def test_a_release_without_evidence_is_refused_though_signed(made, tmp_path, missing):
    opened = open_candidate(made.now.candidate)
    files = {name: content for name, content in opened.files.items() if name != missing}
    signer = made.consortium.keys["coordinator"]
    write_decided(tmp_path / "b", files=files, facts=opened.facts, decisions={}, signer=signer)
    refused(made, tmp_path / "b", "no audit report or no ledger heads")


def test_a_candidate_is_not_taken_for_a_release(made, tmp_path):
    folder = shutil.copytree(made.now.candidate, tmp_path / "b")
    refused(made, folder, "not a release")
    (folder / "candidate.dsse.json").rename(folder / "release.dsse.json")
    refused(made, folder, "not a 'urn:manikin:release:v1'")


@pytest.mark.parametrize("signer", ["Ada", "north"])
def test_only_the_coordinator_signs_a_release(made, bundle, signer):
    statement, _ = read_listed(bundle, None, envelope=ENVELOPE_FILE, predicate_type=PREDICATE_TYPE)
    (bundle / ENVELOPE_FILE).write_bytes(sign(statement, made.consortium.keys[signer]))
    refused(made, bundle, "No key of the trust file")


def other_trust(made, file, change):
    """The right trust file, with one thing changed; it names no plan."""
    trust = load_trust(made.trust)
    officers, rest = trust.of("officer"), tuple(key for key in trust.keys if key.role != "officer")
    stranger = replace(officers[2], public_key=SigningKey.generate().public_key)
    keys, needed = {
        "no-officers": (rest, 0),
        "fewer-officers": ((*rest, *officers[:2]), 2),
        "more-needed": (trust.keys, 3),
        "other-key": ((*rest, *officers[:2], stranger), 2),
        "other-institution": ((*rest, *officers[:2], replace(officers[2], institution="East Clinic")), 2),
        "no-hospitals": ((*trust.of("coordinator"), *officers), 2),
    }[change]
    write_trust(file, keys, officers_needed=needed)
    return file


@pytest.mark.parametrize(
    "change", ["no-officers", "fewer-officers", "more-needed", "other-key", "other-institution", "no-hospitals"]
)
def test_a_trust_file_of_other_people_refuses_it(made, tmp_path, change):
    refused(made, made.now.bundle, trust=other_trust(made, tmp_path / "trust.json", change))


def test_a_plan_without_officers_is_no_way_around_them(made, tmp_path):
    consortium, plan = made.consortium, made.consortium.plan(needed=0)
    generator, signer = generators.create(plan.generator_spec()), consortium.keys["coordinator"]
    write_bundle(tmp_path / "b", generator=generator, facts=consortium.facts(plan), signer=signer)
    trust = load_trust(made.trust)
    write_trust(tmp_path / "any-plan.json", trust.keys, officers_needed=2)
    refused(made, tmp_path / "b", "same officers", trust=tmp_path / "any-plan.json")
    write_trust(tmp_path / "nobody.json", [signer.trusted("Study", "coordinator")])
    assert verify_bundle(tmp_path / "b", tmp_path / "nobody.json").audit is None
    assert "No officer decided on this release" in (tmp_path / "b" / "PRIVACY.md").read_text()


def test_the_card_says_who_decides(made):
    card = (made.now.bundle / "PRIVACY.md").read_text()
    assert "It takes 2 of these officers, from at least 2 institutions: Ada (North Clinic), Bo (South Clinic)" in card
