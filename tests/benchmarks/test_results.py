"""JSON lines that survive a crash, a table, and a section that leaves the rest of a page alone."""

from __future__ import annotations

import pytest


@pytest.fixture
def results():
    import results

    return results


def line(seed, **changes):
    fixed = {
        "dataset": "d",
        "family": "moments",
        "epsilon": 3.0,
        "unit": "image",
        "seconds": 2.0,
        "frechet": None,
        "commit": "c0",
    }
    return {**fixed, "case": f"c{seed}", "seed": seed, "auc": 0.8 + seed / 10, "balanced_accuracy": 0.7, **changes}


def test_lines_come_back_even_after_one_was_cut_short(results, tmp_path):
    journal = tmp_path / "folder" / "lines.jsonl"
    results.append(journal, line(0))
    with journal.open("a") as file:
        file.write('{"case": "half')
    results.append(journal, line(1))
    assert results.read(journal) == [line(0), line(1)]
    assert results.read(tmp_path / "none") == []


def test_a_number_that_is_not_finite_is_never_written(results, tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        results.append(tmp_path / "lines.jsonl", line(0, auc=float("nan")))


def test_runs_of_one_kind_share_a_row(results):
    moments = [line(0, audit="pass"), line(1, audit="pass"), line(2, audit="fail", auc=None)]
    rows = results.table([*moments, line(0, epsilon=None, family="real", auc=None)]).splitlines()
    assert len(rows) == 4
    assert rows[2] == "| d | moments | 3 | image | 0.850 ± 0.071 | 0.700 ± 0.000 | – | – | – | 3 | 1 fail, 2 pass | 2 |"
    assert rows[3] == "| d | real | ∞ | image | – | 0.700 | – | – | – | 1 | – | 2 |"


def test_a_round_goes_over_several_commits(results):
    lines = [line(0, round="may", commit="old"), line(1), line(0, auc=0.1), line(1, round="may")]
    assert results.answers(lines, series="may") == {"c0": lines[0], "c1": lines[3]}
    assert results.answers(lines, series="c0") == {"c1": lines[1], "c0": lines[2]}


def test_a_case_is_answered_once_at_each_commit(results):
    failed = line(0, audit="fail", auc=None)
    lines = [line(0, commit="old"), failed, line(1), line(0, audit="pass")]
    assert results.answers(lines, series="c0") == {"c0": failed, "c1": line(1)}


def test_a_section_is_replaced_and_the_rest_kept(results, tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nby hand\n")
    results.write_section(page, "utility", "first")
    results.write_section(page, "other", "beside")
    results.write_section(page, "utility", "second\n")
    text = page.read_text()
    assert "by hand" in text
    assert "beside" in text
    assert "first" not in text
    assert text.count("utility: begin") == text.count("utility: end") == 1
    assert "<!-- utility: begin -->\nsecond\n<!-- utility: end -->" in text


def test_the_commit_is_a_hash(results):
    assert results.commit().rstrip("+") == "unknown" or len(results.commit().rstrip("+")) == 10
