"""The dashboard and the alert rules ask only for what is exported: names, labels and words."""

import json
import re
from collections import defaultdict

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from manikin.client import metrics as hospital_metrics
from manikin.server import metrics as coordinator_metrics

SELECTOR = re.compile(r"\b(manikin_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|=|!=|!~)\s*"([^"]*)"')
JOINED = re.compile(r"\bon \(([^)]*)\)")
FREE = {"plan", "hospital", "instance"}  # labels whose values are names, not words of a list


@pytest.fixture(scope="module")
def exported():
    """Every sample that the two programs export, with its labels and their values, from a run that has everything."""
    states = [
        coordinator_metrics.Run("ab" * 6, ("north",), ("train",), 1.0, 1e-5, **extra)
        for extra in (
            {"state": "running", "phases": {"train": [1.0]}, "online": ("north",)},
            *({"state": "failed", "error": code} for code in coordinator_metrics.CODES),
            *({"state": "finished", "verdict": verdict} for verdict in coordinator_metrics.VERDICTS),
        )
    ]
    samples = defaultdict(lambda: defaultdict(set))
    for page in (_coordinator_page(states), _hospital_page()):
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                for label, value in {"instance": "", **sample.labels}.items():
                    samples[sample.name][label].add(value)
    return samples


def _coordinator_page(runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator_metrics, "read_runs", lambda _: runs)
        return generate_latest(coordinator_metrics.registry_of("nowhere")).decode()


def _hospital_page():
    tally = type("Sums", (), {"read": lambda _: {}})()
    hospital = hospital_metrics.Hospital(tally=tally, counters=dict)
    return generate_latest(hospital_metrics.registry_of(hospital)).decode()


def _fits(expression, exported, texts=()):
    """What an expression asks for that is not exported."""
    used = SELECTOR.findall(expression)
    assert used, expression
    wrong = []
    for name, matchers in used:
        if name not in exported:
            wrong.append(name)
            continue
        for label, operator, value in MATCHER.findall(matchers):
            words = value.split("|") if "~" in operator else [value]
            known = exported[name].get(label)
            if known is None or (label not in FREE and not set(words) <= known):
                wrong.append(f"{name}{{{label}{operator}{value}}}")
    labels = set.intersection(*(set(exported[name]) for name, _ in used if name in exported)) if not wrong else set()
    first = set(exported[used[0][0]]) if not wrong else set()
    joined = {label.strip() for group in JOINED.findall(expression) for label in group.split(",")}
    wrong += [f"on ({label})" for label in joined - labels]
    wrong += [f"label {label} in a text" for text in texts for label in set(_labels(text)) - first]
    return wrong


def _labels(text):
    return re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text)


def panels(repository):
    dashboard = json.loads((repository / "deploy" / "grafana" / "manikin.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"], dashboard


def rules(repository):
    groups = yaml.safe_load((repository / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_dashboard_asks_for_what_is_exported(repository, exported):
    shown, dashboard = panels(repository)
    wrong = {
        panel["title"]: problems
        for panel in shown
        for target in panel["targets"]
        if (problems := _fits(target["expr"].replace('plan=~"$plan"', 'plan=~""'), exported, [target["legendFormat"]]))
    }
    assert wrong == {}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert "manikin_run_state" in dashboard["templating"]["list"][1]["query"]["query"]


def test_the_alerts_ask_for_what_is_exported_and_say_what_to_do(repository, exported):
    wrong = {
        rule["alert"]: problems
        for rule in rules(repository)
        if (problems := _fits(rule["expr"], exported, rule["annotations"].values()))
    }
    assert wrong == {}
    for rule in rules(repository):
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description"}


WORDS = {"increase", "rate", "time", "and", "on"}
TOKEN = re.compile(
    r"\s*(?:(?P<name>[a-z_]\w*)|(?P<labels>\{[^{}]*\})|(?P<span>\[\d+[smhd]\])|\d+(?:\.\d+)?|==|!=|[<>]=?|[-+*/,]|(?P<bracket>[()]))"
)


def _unread(expression):
    """What of an expression is no name, label, span, number, operator or bracket; how far this test can read it.

    It is no PromQL parser: whether an expression means what it should is not looked at.
    """
    wrong, place, open_brackets, before, group = [], 0, 0, "", False
    while place < len(expression.rstrip()):
        token = TOKEN.match(expression, place)
        if token is None:
            return [*wrong, f"from {place}: {expression[place:]}"]
        text = token[0].strip()
        if token["name"] and not group and not (text in WORDS or text.startswith("manikin_")):
            wrong.append(text)
        if token["labels"] and MATCHER.sub("", text).strip("{}, ") != "":
            wrong.append(text)
        if token["span"] and not re.search(r"\b(?:increase|rate)\($", before):
            wrong.append(f"{text} outside increase() and rate()")
        if token["bracket"]:
            open_brackets += 1 if text == "(" else -1
            group = text == "(" and before.endswith("on")
            wrong += ["closed too often"] if open_brackets < 0 else []
        if not (token["labels"] or (token["name"] and text.startswith("manikin_"))):
            before += text
        place = token.end()
    return wrong + (["not closed"] if open_brackets else [])


def test_every_rule_is_read_to_its_end(repository):
    wrong = {rule["alert"]: problems for rule in rules(repository) if (problems := _unread(rule["expr"]))}
    assert wrong == {}
    names = [rule["alert"] for rule in rules(repository)]
    assert len(set(names)) == len(names)
    for rule in rules(repository):
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"\d+[smhd]", str(rule.get("for", "1m"))), rule["alert"]
        counters = re.findall(r"(?:increase|rate)\((\w+)", rule["expr"])
        assert all(name.endswith("_total") for name in counters), rule["alert"]


@pytest.mark.parametrize(
    "expression",
    [
        "manikin_vault_up == 0)",
        "(manikin_vault_up == 0",
        "rat(manikin_vault_up[5m]) > 0",
        "manikin_vault_up[5m] == 0",
        "manikin_vault_up{code=deadline} == 0",
        "manikin_vault_up = 0",
        "vault_up == 0",
    ],
)
def test_a_rule_that_cannot_be_read_is_found(expression):
    assert _unread(expression)


def test_every_metric_is_on_the_dashboard(repository, exported):
    asked = {
        name for panel in panels(repository)[0] for t in panel["targets"] for name, _ in SELECTOR.findall(t["expr"])
    }
    left_out = {"manikin_run_delta_planned", "manikin_run_hospitals", "manikin_run_changed_timestamp_seconds"}
    assert {name for name in exported if name.startswith("manikin_")} - asked == left_out


def test_nothing_exported_is_a_batch_a_loss_or_a_count_of_patients(exported):
    banned = re.compile("loss|batch|clip|patient|image|label|norm|score|auc")
    assert [name for name in exported if banned.search(name)] == []


@pytest.mark.parametrize(
    "expression",
    [
        "manikin_run_loss > 0",
        'manikin_run_state{state="burnt"} == 1',
        'manikin_run_state{room=~"a"} == 1',
        "manikin_run_hospitals == 0 and on (hospital) manikin_run_state == 1",
    ],
)
def test_what_is_not_exported_is_found(exported, expression):
    assert _fits(expression, exported)


def test_prometheus_scrapes_both_roles_where_they_listen(repository):
    config = yaml.safe_load((repository / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = {t for job in config["scrape_configs"] for static in job["static_configs"] for t in static["targets"]}
    units = "".join(f.read_text() for f in (repository / "deploy" / "systemd").glob("manikin-metrics-*.service"))
    assert targets == set(re.findall(r"--listen (\S+)", units))
    for file in config["rule_files"]:
        assert (repository / "deploy" / "prometheus" / file).is_file()
