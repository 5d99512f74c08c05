"""The benchmark of drawing: both sides do the same evaluations, and the page says whether the ratio is reached."""

from __future__ import annotations

import json

import pytest
import torch


@pytest.fixture
def sample():
    import sample

    return sample


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (6, 8, 6)], ids=str)
def test_the_bare_network_is_evaluated_as_often_as_in_a_sample_and_on_as_many_images(sample, monkeypatch, shape):
    seen = []
    made = sample.generator(shape)
    original = type(made.net).forward
    monkeypatch.setattr(
        type(made.net), "forward", lambda self, x, *rest: seen.append(tuple(x.shape)) or original(self, x, *rest)
    )
    monkeypatch.setattr(sample, "generator", lambda _: made)
    monkeypatch.setattr("manikin.common.generators.diffusion.SAMPLE_BATCH", 2)
    found = sample.run_case(shape, 1)
    assert set(seen) == {(2, 1, *shape)}
    assert len(seen) == 2 * 2 * found["evaluations"] == 44
    assert found["ratio_to_forward"] > 0


def test_guidance_takes_twice_as_many_evaluations(sample, monkeypatch):
    made = sample.generator((8, 8))
    plain = sample.evaluations(made)
    made.options["guidance"] = 2.0
    calls = []
    monkeypatch.setattr(made.net, "forward", lambda x, *_: calls.append(1) or torch.zeros_like(x))
    made.sample(torch.zeros(3, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    assert (plain, sample.evaluations(made), len(calls)) == (11, 22, 22)


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_shard_is_made_and_its_drawing_timed(sample, kind):
    found = sample.run_shard(kind, 6)
    assert found["images"] == 6
    assert 0 < found["share_drawing"] <= 1


def test_the_page_says_what_is_reached(sample, tmp_path, monkeypatch, capsys):
    ratios = iter([0.95, 0.89, 1.0])

    def case(shape, rounds):
        speed = {"images_a_second": 100.0, "forward_images_a_second": 105.26, "evaluations": 11}
        return {"batch": 8, "ratio_to_forward": next(ratios)} | speed

    shard = {"images": 4, "images_a_second": 300.0, "share_drawing": 0.94}
    monkeypatch.setattr(sample, "run_case", case)
    monkeypatch.setattr(sample, "run_shard", lambda *_: shard)
    monkeypatch.setattr(sample.results, "commit", lambda: "0123456789")
    out = tmp_path / "PAGE.md"
    monkeypatch.setattr("sys.argv", ["sample.py", "--out", str(out)])
    sample.main()
    text = out.read_text()
    assert "| unet2d-28 | 8 | 100.0 | 105.3 | 0.95 | 0.9, met |" in text
    assert "| 0.89 | 0.9, missed |" in text
    assert "shard of png: 300 images of 28 × 28 a second, of which drawing 94%;" in text
    assert len(sample.results.read(tmp_path / "results.jsonl")) == 5
    out.unlink()
    ratios = iter([1.0, 1.0, 1.0])
    monkeypatch.setattr("sys.argv", ["sample.py", "--out", str(out), "--quick", "--json"])
    capsys.readouterr()
    sample.main()
    assert not out.exists()
    assert [json.loads(line)["threads"] for line in capsys.readouterr().out.splitlines()] == [1] * 5
