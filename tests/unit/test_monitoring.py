"""Dashboard and alerts speak of the metrics that a run exports; Prometheus takes them; each check can fail."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_motion.runtime.exporter import METRICS, PREFIX

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "clusters" / "monitoring"
ALERTS, CONFIG = MONITORING / "alerts.yaml", MONITORING / "prometheus.yml"
ALERTS_TEST = Path(__file__).parent / "monitoring" / "alerts-test.yaml"
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
ROWS = ["Throughput", "Pools and utilisation", "Queue and faults", "Learning"]
NAME = re.compile(r"(?<![\w:])ray_(\w+)")
SELECTOR = re.compile(r"(?<![\w:])ray_rl_motion_(\w+)(?:\{([^}]*)\})?")


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool; Debian has it in the package `prometheus`")
    return found


def asked(*arguments: object) -> tuple[int, str]:
    command = [promtool(), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def graphs(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in graphs(dashboard):
        yield from (target["expr"] for target in panel["targets"])
    yield from (entry["definition"] for entry in dashboard["templating"]["list"] if "definition" in entry)


def mistakes_of_expressions(found: list[str]) -> set[str]:
    """Names that nobody exports, and labels that a metric does not have; PromQL's own words are no names of Ray's."""
    wrong = {name for text in found for name in NAME.findall(text) if name.removeprefix(PREFIX) not in METRICS}
    for text in found:
        for name, selector in SELECTOR.findall(text):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
            wrong |= (
                {f"{name}.{label}" for label in labels - {"run", *METRICS[name].tags}} if name in METRICS else set()
            )
    return wrong


def mistakes_of_dashboard(dashboard: dict[str, Any]) -> list[str]:
    wrong = []
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) < len(ids):
        wrong.append("ids are not unique")
    if [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"] != ROWS:
        wrong.append("other rows")
    variables = {entry["name"]: entry["type"] for entry in dashboard["templating"]["list"]}
    if variables != {"datasource": "datasource", "run": "query"}:
        wrong.append("other variables")
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        if taken & cells or place["x"] + place["w"] > 24:
            wrong.append(f"{panel['title']}: does not fit its place")
        taken |= cells
    return wrong + [f"{panel['title']}: {what}" for panel in graphs(dashboard) for what in mistakes_of_graph(panel)]


def mistakes_of_graph(panel: dict[str, Any]) -> Iterator[str]:
    targets = panel.get("targets", [])
    if not targets or not panel["description"]:
        yield "shows nothing, or does not say what"
    if len({target["refId"] for target in targets}) < len(targets):
        yield "targets of one name"
    if any(part["datasource"] != {"type": "prometheus", "uid": "${datasource}"} for part in (panel, *targets)):
        yield "a fixed data source"
    if any('run=~"$run"' not in target["expr"] for target in targets):
        yield "of all runs"


def test_dashboard_and_alerts_speak_of_what_is_exported() -> None:
    assert mistakes_of_expressions([*expressions(DASHBOARD), *(rule["expr"] for rule in rules())]) == set()


def test_the_dashboard_shows_all_that_is_exported() -> None:
    shown = {name for text in expressions(DASHBOARD) for name, _ in SELECTOR.findall(text)}
    assert shown == METRICS.keys()


def test_the_dashboard_is_whole() -> None:
    assert mistakes_of_dashboard(DASHBOARD) == []


def test_broken_dashboards_are_seen() -> None:
    def broken(**changes: Any) -> dict[str, Any]:
        tree = copy.deepcopy(DASHBOARD)
        tree["panels"][1] |= changes
        return tree

    targets = DASHBOARD["panels"][1]["targets"]
    breaks: list[dict[str, Any]] = [
        {"id": 1},
        {"type": "row"},
        {"targets": []},
        {"description": ""},
        {"datasource": {"type": "prometheus", "uid": "mine"}},
        {"targets": [*targets, targets[0]]},
        {"targets": [{**targets[0], "expr": "ray_rl_motion_units"}]},
        {"gridPos": {"x": 20, "y": 1, "w": 8, "h": 7}},
    ]
    assert all(mistakes_of_dashboard(broken(**change)) for change in breaks)


@pytest.mark.parametrize(
    "expression",
    ["ray_rl_motion_unit", "rate(ray_rl_motion_rows_total[1m])", "ray_tasks", 'ray_rl_motion_units{role="rollout"}'],
)
def test_unknown_names_and_labels_are_seen(expression: str) -> None:
    assert mistakes_of_expressions([expression]) != set()


def test_every_alert_is_tested_firing_and_silent() -> None:
    tests = [case for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in tests if case["exp_alerts"]} == names
    assert {case["alertname"] for case in tests if not case["exp_alerts"]} == names
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in rules())


def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    for kind, path in (("rules", ALERTS), ("config", CONFIG)):
        code, said = asked("check", kind, path)
        assert code == 0, said


def test_alerts_fire_where_they_should() -> None:
    code, said = asked("test", "rules", ALERTS_TEST)
    assert code == 0, said


@pytest.mark.parametrize(("old", "new"), [("> 5\n", "> 500\n"), ("< 0.7", "< 0.99"), ('state="ready"', 'state="busy"')])
def test_other_alerts_fail_their_tests(tmp_path: Path, old: str, new: str) -> None:
    assert old in ALERTS.read_text()
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace(old, new))
    told = yaml.safe_load(ALERTS_TEST.read_text()) | {"rule_files": ["alerts.yaml"]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(told))
    code, said = asked("test", "rules", tmp_path / "test.yaml")
    assert code != 0, said


def test_what_no_rules_file_is_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace("max by", "max bye"))
    assert asked("check", "rules", tmp_path / "alerts.yaml")[0] != 0
