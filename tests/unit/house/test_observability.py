# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alerts ask for metrics that there are, by labels that they have."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[3] / "docs"
FOLDER = DOCS / "observability"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")

DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES += [(rule["alert"], rule["expr"]) for rule in ALERTS]
PROMETHEUS_OWN = {
    "up": {"job"},
    "process_resident_memory_bytes": {"job"},
    "process_cpu_seconds_total": {"job"},
}
"""Metrics that Prometheus and its client make by themselves, with their labels."""


def catalogue() -> dict[str, set[str]]:
    """Labels of each series, by its name."""
    known = dict(PROMETHEUS_OWN)
    rows = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", rows, re.MULTILINE):
        found = set(labels.split(", ")) - {""}
        if kind == "histogram":
            known |= {f"{name}_bucket": found | {"le"}, f"{name}_sum": found, f"{name}_count": found}
        else:
            known[name] = found
    return known


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_asks_for_metrics_that_there_are_by_labels_that_they_have(title, query):
    known = catalogue()
    asked = re.findall(r"\b((?:finetree|grpc_server|process|up)\w*)(\{[^}]*\})?", re.sub(r'"[^"]*"', '""', query))
    asked = [(name, selector) for name, selector in asked if name not in _LABELS]
    assert asked, title
    for name, selector in asked:
        assert name in known, f"{title}: {name} is not in docs/metrics.md"
        labels = set(re.findall(r"(\w+)\s*[=!]", selector)) - {"instance"}
        assert labels <= known[name], f"{title}: {name} has no label {labels - known[name]}"
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
    possible = set().union(*(known[name] for name, _ in asked)) | {"instance"}
    assert grouped <= possible, f"{title}: grouped by {grouped - possible}"


_LABELS = {label for labels in catalogue().values() for label in labels}


def test_panels_have_a_place_of_their_own_a_unit_and_a_meaning():
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24, panel["title"]
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


def test_an_alert_says_what_it_means_and_what_to_do_and_has_a_test():
    tests = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {re.search(r'"(\w+)"', sample["labels"])[1] for sample in tests[0]["promql_expr_test"][0]["exp_samples"]}
    assert fired == {rule["alert"] for rule in ALERTS}
    assert tests[1]["promql_expr_test"][0]["exp_samples"] == []
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "action"}


@needs_promtool
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]])
def test_promtool_takes_the_alerts(command):
    ended = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_promtool_takes_the_queries_of_the_dashboard(tmp_path):
    values = {"$instance": ".*", "$__rate_interval": "5m"}
    rules = []
    for number, (_, query) in enumerate(QUERIES):
        for name, value in values.items():
            query = query.replace(name, value)  # noqa: PLW2901 - the query with its variables filled in
        assert "$" not in query
        rules.append({"record": f"query_{number}", "expr": query})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    ended = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
