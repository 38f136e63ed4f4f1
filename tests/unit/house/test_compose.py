# SPDX-License-Identifier: Apache-2.0
"""docker-compose.yml: three services, reachable from this machine alone, gated by health, without a service's torch."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_it_starts_the_three_services():
    assert set(SERVICES) == {"recommender", "estimator", "trainer"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_alone(name):
    assert SERVICES[name]["ports"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_probed_and_whoever_needs_another_waits_until_it_is_healthy(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][-1].startswith(f"finetree_api.{name}.v1.")
    needed = {
        words.partition(":")[0] for words in service["command"] if words.endswith(":50052") and words[0].isalpha()
    }
    assert {other: {"condition": "service_healthy"} for other in needed} == service.get("depends_on", {})


@pytest.mark.parametrize("name", SERVICES)
def test_each_image_holds_its_own_distributions(name):
    arguments = SERVICES[name]["build"]["args"]
    expected = {f"finetree-{name}"} | ({"finetree-worker"} if name == "trainer" else set())
    assert set(arguments["PACKAGES"].split()) == expected
    assert arguments["MODULE"] == f"finetree_{name}"


def test_no_image_runs_as_root():
    last_stage = (ROOT / "services" / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in last_stage
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in SERVICES.values())
