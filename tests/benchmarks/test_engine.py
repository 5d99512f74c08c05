"""The benchmark of the engine: every rival takes a step, its lines say what was measured, its page is complete."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
import torch

pytestmark = [  # the rivals' own
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]


@pytest.fixture
def engine():
    import engine

    return engine


@pytest.fixture
def rivals():
    import rivals

    return rivals


@pytest.fixture
def tiny(engine):
    return engine.Case("tiny", (8, 8), 2, 3, engine.options(4), ("opacus_hooks", "expanded_weights"), 2, (1, 2))


RIVALS = ("nonprivate", "manikin", "opacus_hooks", "functorch", "vmap", "ghost")


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("private", [("all",), ("film", "embedding", "output")], ids=["all", "few"])
def test_a_step_moves_what_is_private_and_nothing_else(engine, rivals, name, private):
    family = rivals.make_family(engine.options(4, private=private), (8, 8))
    net, moving = family.net, {id(p) for p in family.private_parameters()}
    before = [p.detach().clone() for p in net.parameters()]
    rivals.VARIANTS[name](family, rivals.make_patients(3, (8, 8)), 2)()
    moved = [not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True)]
    assert moved == [id(p) in moving for p in net.parameters()]


@pytest.mark.parametrize("name", ["opacus_hooks", "functorch", "vmap"])
def test_rivals_bound_a_patient_s_mean_gradient(engine, rivals, name, monkeypatch):
    """Without noise and with a bound nobody reaches, the step is plain training's."""
    monkeypatch.setattr(rivals, "NOISE", 0.0)
    monkeypatch.setattr(rivals, "CLIP", 1e9)
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    monkeypatch.setattr(rivals, "LEARNING_RATE", 1.0)
    weights = {}
    for variant in ("nonprivate", name):
        family = rivals.make_family(engine.options(4), (8, 8))
        net = family.net
        rivals.VARIANTS[variant](family, rivals.make_patients(3, (8, 8)), 2)()
        weights[variant] = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert torch.allclose(weights[name], weights["nonprivate"], rtol=1e-4, atol=1e-5)


def test_a_rival_that_cannot_run_is_named_with_its_reason(engine, tiny):
    found = engine.measure_time(tiny)
    assert set(found["seconds"]) == {"manikin", "nonprivate", "opacus_hooks"}
    assert "Expanded Weights needs" in found["not_run"]["expanded_weights"]


def test_the_task_survives_its_way_to_the_measuring_process(engine, tiny):
    task = json.loads(json.dumps({"task": "memory", "case": asdict(tiny), "variant": "manikin", "patients": 2}))
    assert engine.work(task)["megabytes"] >= 0


def answer(task, threads=1):
    if task["task"] == "time":
        return {"seconds": {"manikin": 2.0, "nonprivate": 1.8}, "not_run": {"opacus_hooks": "No: it"}, "parameters": 9}
    return {"megabytes": {"manikin": 11.0, "nonprivate": 10.0 * task["patients"]}.get(task["variant"], 50.0)}


def test_a_line_holds_ratios_and_the_page_every_case(engine, tiny, monkeypatch):
    monkeypatch.setattr(engine, "ask", answer)
    line = engine.run_case(tiny, code="abc")
    assert line["case"] == "tiny"
    assert line["ratio_to_nonprivate"] == 0.9
    assert line["ratio_to_opacus_hooks"] is None
    assert line["peak_memory_ratio"] == 0.55
    assert line["peak_memory_ratio_to_one_patient"] == 1.1
    assert line["megabytes"]["nonprivate"] == {"1": 10.0, "2": 20.0}
    assert line["milliseconds_a_patient"]["manikin"] == pytest.approx(666.67)
    page = engine.table([line])
    for part in ("| tiny | 9 | 3, 2 | 666.7 | 0.90 | cannot |", "| nonprivate | 1: 10, 2: 20 | 2.00 |", "No: it"):
        assert part in page


def test_required_cases_are_there_and_the_quick_ones_among_them(engine):
    every, quick = ([case.name for case in engine.cases(quick=q)] for q in (False, True))
    assert set(quick) < set(every)
    assert "unet2d-k8" in quick
    assert {(28, 28), (64, 64), (32, 48, 32), (64, 64, 64)} == {case.shape for case in engine.cases(quick=False)}


def test_the_command_writes_its_section_and_with_json_none(engine, tiny, tmp_path, monkeypatch, capsys):
    page, pair = tmp_path / "page.md", {"case": "processes-threads", "load": 1.0, "two_processes": 4, "two_threads": 2}
    monkeypatch.setattr(engine, "ask", answer)
    monkeypatch.setattr(engine, "cases", lambda quick: iter([tiny]))
    monkeypatch.setattr(engine, "processes_and_threads", lambda **_: {**pair, "ratio_to_threads": 2.0})
    for flags, written in ((["--json"], False), ([], True)):
        monkeypatch.setattr(sys, "argv", ["engine.py", "--out", str(page), *flags])
        engine.main()
        lines = [json.loads(text) for text in capsys.readouterr().out.splitlines() if text.startswith("{")]
        assert [line["case"] for line in lines] == ["tiny", "processes-threads"]
        assert page.exists() == written
    assert "<!-- engine: begin -->" in page.read_text()
    assert "4 in two processes of one thread, 2 in one process of two threads" in page.read_text()
