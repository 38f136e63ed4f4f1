# SPDX-License-Identifier: Apache-2.0
"""Values of the Helm chart: those that cannot be meant are refused by name, and each is on the page."""

from typing import Any

import pytest
import yaml
from chart_objects import CHART, PAGE, REFUSED, needs_helm

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

pytestmark = needs_helm


def test_helm_finds_nothing_wrong(helm):
    assert not helm["lint"]["errors"]
    assert [each for each in helm["lint"]["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_be_meant_are_refused_by_name(helm, name):
    said = helm["rendered"][name]
    assert isinstance(said, str)
    assert REFUSED[name][1] in said


def test_every_value_is_on_the_page():
    def names(values: dict[str, Any], before: str = "") -> list[str]:
        found = []
        for name, value in values.items():
            inner = isinstance(value, dict) and value and name not in {"resources", "head", "storage", "objectStore"}
            found += names(value, f"{before}{name}.") if inner else [f"{before}{name}"]
        return found

    common = {"resources", "nodeSelector", "tolerations", "extraArgs", "maxUnavailable", "storage", "replicas"}
    missing = [
        name
        for name in names(DEFAULTS)
        if f"`{name}`" not in PAGE
        and not (name.rpartition(".")[2] in common and f"`*.{name.rpartition('.')[2]}`" in PAGE)
    ]
    assert not missing
