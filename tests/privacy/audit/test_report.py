"""The page: same input same bytes, nothing fetched, nothing promised that cannot be known."""

import json
import re

import numpy as np
import pytest

from manikin.privacy.audit import ReportContext, write_report

BANNED = re.compile(r"anonym|\bsafe|\bguaranteed privacy", re.IGNORECASE)


def context(**changes):
    values = {"hospital": "North", "study": "chests", "plan": "ab12" * 16, "unit": "patient", "labels": ("no", "yes")}
    return ReportContext(**{**values, **changes})


@pytest.fixture
def results(images, run, denoiser):
    """A pass or inconclusive, a fail, a tiny cohort and a volume."""
    rng = np.random.default_rng(0)
    synthetic = images(rng, 80)
    train, holdout, calibration = (images(rng, n) for n in (300, 100, 120))
    leaky = np.concatenate([train[:70], synthetic])
    volumes = [images(rng, n, (6, 8, 4)) for n in (20, 12, 12)]
    return {
        "honest": run(train, holdout, calibration, synthetic, generator=denoiser(synthetic), tpr_limit=0.3),
        "leaky": run(train, holdout, calibration, leaky, generator=denoiser(train)),
        "tiny": run(train[:3], holdout[:1], calibration[:0], synthetic),
        "volume": run(*volumes, volumes[0][:5]),
    }


def read(folder, result, **changes):
    return write_report(folder, result, context=context(**changes)).read_text(encoding="utf-8")


def test_same_input_same_bytes(tmp_path, results):
    for name, result in results.items():
        for copy in ("first", "second"):
            write_report(tmp_path / copy / name, result, context=context(show_pairs=True))
        for file in ("audit.html", "audit.json"):
            assert (tmp_path / "first" / name / file).read_bytes() == (tmp_path / "second" / name / file).read_bytes()


def test_no_page_claims_what_cannot_be_known(tmp_path, results):
    assert {result.verdict for result in results.values()} == {"pass", "fail", "inconclusive"}
    for result in results.values():
        page = read(tmp_path, result, show_pairs=True, embedded=True, unit="image")
        visible = re.sub(r"data:image/png;base64,[^\"]*", "", page)
        assert not BANNED.search(visible)
        assert not BANNED.search((tmp_path / "audit.json").read_text())


def test_the_page_is_self_contained(tmp_path, results):
    page = read(tmp_path, results["honest"], show_pairs=True)
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "<script" not in page
    assert "http" not in page


def test_the_first_lines_say_verdict_notice_and_claim(tmp_path, results):
    page = read(tmp_path, results["leaky"])
    text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    start = text[:1800]
    assert "fail" in start
    assert "It should not be released" in start
    assert "not noised, not charged: this page is the hospital’s own and does not leave it" in start
    assert "&epsilon; = 3, &delta; = 1e-5" in start
    for heading in ("The evidence", "Could have found", "What was not tested"):
        assert heading in text


def test_scans_and_keys_are_on_the_page_only_where_asked_for(tmp_path, results):
    key = results["leaky"].pairs[0].key
    assert "data:image" not in read(tmp_path, results["leaky"])
    assert key not in read(tmp_path, results["leaky"])
    assert read(tmp_path, results["leaky"], show_pairs=True).count("data:image/png") == 24
    assert key not in (tmp_path / "audit.json").read_text()


def test_an_embedded_run_and_missing_patient_ids_are_said(tmp_path, results):
    assert "on one machine" not in read(tmp_path, results["honest"])
    page = read(tmp_path, results["honest"], embedded=True, unit="image")
    assert "all its hospitals on one machine" in page
    assert "unit: image" in page


def test_the_document_has_a_version_and_the_numbers(tmp_path, results):
    read(tmp_path, results["leaky"])
    document = json.loads((tmp_path / "audit.json").read_text())
    assert document["schema"] == 1
    assert document["verdict"] == "fail"
    assert document["sizes"] == {"train": 300, "holdout": 100, "calibration": 120, "synthetic": 150}
    assert document["claim"]["tpr_allowed"] == pytest.approx(0.054, abs=1e-3)
    assert [finding["name"] for finding in document["findings"]] == [
        "membership-distance",
        "membership-loss",
        "re-identification",
    ]
    assert document["context"]["hospital"] == "North"


def test_too_few_patients_are_said_instead_of_drawn(tmp_path, results):
    page = read(tmp_path, results["tiny"])
    assert "<svg" not in page
    assert "too few patients to draw" in page


def test_names_cannot_smuggle_markup(tmp_path, results):
    assert "<b>bold" not in read(tmp_path, results["tiny"], hospital="<b>bold")
