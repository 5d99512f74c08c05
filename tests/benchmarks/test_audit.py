"""The audit benchmark: what is missing never counts as reached, and its simulations are what they say."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def audit():
    import audit

    return audit


@pytest.fixture
def bounds():
    import audit_bounds

    return audit_bounds


@pytest.fixture
def copies():
    import audit_copies

    return audit_copies


def test_every_acceptance_number_has_a_line(audit):
    assert {case.number for case in audit.CASES} == set(range(1, 23))
    assert len({case.title for case in audit.CASES}) == len(audit.CASES)


def test_what_is_not_built_is_said_so_and_is_never_reached(audit):
    lines = [audit.run(case, quick=True) for case in audit.CASES if case.measure is None]
    assert lines
    assert all(line["reached"] == "not built" and line["ok"] is False for line in lines)
    assert not audit.missed(lines)
    assert f"0 of 0 measured cases reached; {len(lines)} not built." in audit.page(lines)
    assert "yes" not in audit.page(lines)


def test_a_missed_number_is_shown_and_fails_the_run(audit):
    case = audit.Case(1, "x", "much", lambda quick: (False, {"share": 0.5, "audits": 4000, "quick": quick}))
    line = audit.run(case, quick=True)
    assert audit.missed([line])
    assert "| 1. x | much | share: 0.5; audits: 4,000; quick: True | **no** |" in audit.page([line])


def test_one_case_prints_a_line_and_leaves_the_page_alone(audit, monkeypatch, capsys, tmp_path):
    out = tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", ["audit.py", "--json", "--only", "1", "--out", str(out)])
    assert audit.main() == 0
    line = json.loads(capsys.readouterr().out)
    assert line["case"] == "audit: 1. known answers"
    assert {"must_reach", "reached", "ok", "commit", "date", "quick"} <= set(line)
    assert line["ok"] is True
    assert not out.exists()


def test_a_whole_run_writes_page_and_lines(audit, monkeypatch, tmp_path, capsys):
    out = tmp_path / "RESULTS.md"
    cases = [case for case in audit.CASES if case.number == 1 or case.measure is None]
    monkeypatch.setattr(audit, "CASES", cases)
    monkeypatch.setattr(sys, "argv", ["audit.py", "--out", str(out)])
    assert audit.main() == 0
    assert "1 of 1 measured cases reached" in out.read_text()
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(cases)
    assert "| 1. known answers |" in capsys.readouterr().out


def test_a_wrong_statistic_is_seen_by_its_case(bounds, monkeypatch):
    assert bounds.known_answers(True)[0]
    right = bounds.clopper_pearson
    monkeypatch.setattr(bounds, "clopper_pearson", lambda hits, n, *, alpha: right(hits, n, alpha=2 * alpha))
    assert not bounds.known_answers(True)[0]


def test_planted_canaries_are_drawn_as_if_in_full(bounds):
    """Mean and spread of the scores, whole and by block, beside updates made coordinate by coordinate."""
    rng, canaries, blocks, length, repeats = np.random.default_rng(0), 8, [(40, 0.5), (60, 0.2)], 2.0, 1500
    short, full = [], []
    for _ in range(repeats):
        short.append(np.ravel(bounds.plant(rng, canaries, blocks, length)))
        directions = rng.normal(size=(canaries, 100))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        noise = np.repeat([0.5, 0.2], [40, 60]) * rng.normal(size=100)
        update = length * directions.sum(0) + noise
        parts = [slice(0, 100), slice(0, 40), slice(40, 100)]
        full.append(np.ravel([bounds.canary_scores(update[part], directions[:, part]) for part in parts]))
    for one in (slice(0, 8), slice(8, 16), slice(16, 24)):
        a, b = np.array(short)[:, one], np.array(full)[:, one]
        error = np.hypot(a.mean(1).std(), b.mean(1).std()) / np.sqrt(repeats)
        assert abs(a.mean() - b.mean()) < 4 * error
        assert a.std() == pytest.approx(b.std(), rel=0.05)


def test_leaky_generators_leak_and_honest_ones_do_not(copies):
    rng = np.random.default_rng(1)
    victims = copies.fresh(rng, 50)
    leaked, honest = copies.leaky(rng, victims, 0.1), copies.collapsed(rng, 5)
    near = 3 * copies.COPY_NOISE * np.sqrt(copies.DIMENSIONS)
    assert 50 <= (copies.nearest(leaked, victims)[1] < near).sum() <= 150
    assert (copies.nearest(honest, victims)[1] < near).sum() == 0
    assert (copies.nearest(honest, honest[:100])[1] < near).mean() > 0.9
