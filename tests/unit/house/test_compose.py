# SPDX-License-Identifier: Apache-2.0
"""docker-compose.yml and services/Dockerfile, as far as no engine is needed; `.ci/containers.sh` runs them."""

import dataclasses
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from finetree_console.__main__ import main as console
from finetree_estimator.settings import Settings as EstimatorSettings
from finetree_recommender.settings import Settings as RecommenderSettings
from finetree_runtime.config.values import Duration, convert
from finetree_trainer.settings import Settings as TrainerSettings

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
CONTAINERS: dict[str, Any] = COMPOSE["services"]
SERVICES = ("estimator", "recommender", "trainer", "console")
ONE_SHOT = ("bucket", "init", "login", "team", "tokens")
SERVERS = ("database", "object-store")
"""Programs of others, in the profile `team`."""
COMPOSE_SCHEMA = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text(encoding="utf-8")
SETTINGS: dict[str, set[str]] = {
    "estimator": {field.name for field in dataclasses.fields(EstimatorSettings)},
    "recommender": {field.name for field in dataclasses.fields(RecommenderSettings)},
    "trainer": {field.name for field in dataclasses.fields(TrainerSettings)},
    "console": {str(parameter.name) for parameter in console.params},
}


def flags(name: str) -> dict[str, str]:
    """The settings that a service's command gives."""
    words = (word.removeprefix("--").partition("=") for word in CONTAINERS[name]["command"])
    return {flag.replace("-", "_"): value for flag, _, value in words}


def mounts(name: str) -> dict[str, tuple[str, bool]]:
    """Volumes of a container: where each is, and whether it may be written."""
    found = (volume.split(":") for volume in CONTAINERS[name].get("volumes", []))
    return {volume: (place, mode != ["ro"]) for volume, place, *mode in found}


def test_it_has_the_services_and_what_prepares_them():
    assert set(CONTAINERS) == {*SERVICES, *ONE_SHOT, *SERVERS}


def test_it_is_a_compose_file():
    schema = json.loads(COMPOSE_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)
    wrong = COMPOSE | {"services": {"trainer": {"image": "x", "mem_limits": "1g"}}}
    assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_may_do_as_little_as_possible(name):
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["pids_limit"] > 0
    assert "mem_limit" in container
    own = ("/tmp:", "/var/run/postgresql:") if name == "database" else "/tmp:"
    assert all(mount.startswith(own) for mount in container["tmpfs"])  # the container's own
    assert not {"privileged", "cap_add", "pid", "ipc", "userns_mode", "devices"} & set(container)
    # Our images have their user; others run as it too, for volumes are its alone.
    assert container.get("user") == ("10001:10001" if name in SERVERS else None)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_unless_somebody_says_otherwise(name):
    (port,) = CONTAINERS[name]["ports"]
    inside = flags(name)["address"].rpartition(":")[2]
    assert port == f"${{FINETREE_BIND:-127.0.0.1}}:${{FINETREE_{name.upper()}_PORT:-{inside}}}:{inside}"


def test_a_team_gets_servers_that_the_trainer_alone_reaches():
    team = {name for name, container in CONTAINERS.items() if container.get("profiles") == ["team"]}
    assert team == {*SERVERS, "team", "bucket"}
    callers = {"database": {"trainer"}, "object-store": {"trainer", "bucket"}}
    for server in SERVERS:
        assert "ports" not in CONTAINERS[server]
        assert CONTAINERS[server]["networks"] == [server]
        assert COMPOSE["networks"][server] == {"internal": True}
        inside = {name for name, each in CONTAINERS.items() if server in each.get("networks", ())}
        assert inside == {server} | callers[server]
    waits = CONTAINERS["trainer"]["depends_on"]
    assert waits["database"] == {"condition": "service_healthy", "required": False}
    assert waits["bucket"] == {"condition": "service_completed_successfully", "required": False}
    variables = CONTAINERS["trainer"]["environment"]
    place = mounts("trainer")["team"][0]
    assert variables["FINETREE_TRAINER_DATABASE_URL_FILE"] == f"{place}/url"
    assert variables["FINETREE_TRAINER_CONFIG"] == f"{place}/trainer.toml"
    assert "postgres" in CONTAINERS["trainer"]["build"]["args"]["EXTRAS"].split()


def test_secrets_of_a_team_are_in_files_that_two_containers_read():
    holders = {volume: {name for name in CONTAINERS if volume in mounts(name)} for volume in COMPOSE["volumes"]}
    assert holders["team"] == {"init", "team", "trainer"}
    for volume in ("database-password", "database-data"):
        assert holders[volume] == {"team", "database"}
    for volume in ("object-store-keys", "object-store-data"):
        assert holders[volume] == {"team", "object-store"}
    password = CONTAINERS["database"]["environment"]["POSTGRES_PASSWORD_FILE"]
    assert password == f"{mounts('database')['database-password'][0]}/password"
    keys = f"{mounts('object-store')['object-store-keys'][0]}/identities.json"
    assert f"-s3.config={keys}" in CONTAINERS["object-store"]["command"]
    named = [name for each in CONTAINERS.values() for name in each.get("environment", {})]
    assert not [name for name in named if re.search("PASSWORD|SECRET|KEY", name) and not name.endswith("_FILE")]


def test_folders_of_volumes_are_in_the_images():
    assemble = (ROOT / "services" / "image" / "assemble.py").read_text(encoding="utf-8")
    made = re.search(r"^_VOLUMES = \((.*?)^\)", assemble, re.MULTILINE | re.DOTALL)
    assert made
    ours = [name for name in CONTAINERS if name not in SERVERS]
    places = {place for name in ours for place, _ in mounts(name).values() if place.startswith("/etc/finetree/")}
    assert {f"/etc/finetree/{name}" for name in re.findall(r'"([a-z-]+)"', made[1])} == places


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_exists(name):
    assert set(flags(name)) <= SETTINGS[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_speaks_tls_and_asks_who_calls(name):
    given = flags(name)
    assert (given["tls_cert"], given["tls_key"]) == ("/etc/finetree/tls/server.pem", "/etc/finetree/tls/server.key")
    assert "insecure" not in given
    assert "pass_tokens" in given if name == "console" else given["access_dir"] == "/etc/finetree/access"
    called = [value for flag, value in given.items() if flag.endswith("_address") and flag != "metrics_address"]
    assert all(address.startswith("https://") for address in called)
    if called:
        assert CONTAINERS[name]["environment"]["FINETREE_TLS_CA"] == "/etc/finetree/tls/ca.pem"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_probed_over_tls_and_waits_for_whom_it_calls(name):
    service = CONTAINERS[name]
    probe = " ".join(service["healthcheck"]["test"])
    assert "/etc/finetree/tls/ca.pem" in probe
    assert ("/healthz" if name == "console" else f"finetree_api.{name}.v1.") in probe
    called = {value.partition("://")[2].partition(":")[0] for value in flags(name).values() if "://" in value}
    waits = {other: condition["condition"] for other, condition in service["depends_on"].items()}
    # Of the profile `team`: nothing is waited for where it is not there.
    optional = {other for other in waits if not service["depends_on"][other].get("required", True)} & set(SERVERS)
    assert {other for other, condition in waits.items() if condition == "service_healthy"} == called | optional
    assert waits.get("init", "service_completed_successfully") == "service_completed_successfully"
    assert "init" in waits or called  # whoever waits for a healthy service waits for what that one waited for


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reads_its_own_secrets_alone_and_writes_its_own_data_alone(name):
    found = mounts(name)
    assert not {"authority", "login", "database-password"} & set(found)
    assert {volume for volume in found if volume.endswith("-token")} <= {f"{name}-token"}
    written = {volume for volume, (_, writable) in found.items() if writable}
    assert written <= {f"{name}-state", f"{name}-data"}
    token = CONTAINERS[name].get("environment", {}).get("FINETREE_TOKEN_FILE")
    assert token == (f"{found[f'{name}-token'][0]}/token" if f"{name}-token" in found else None)


def test_the_time_to_stop_is_enough_for_calls_and_workers():
    for name in SERVICES:
        given = flags(name)
        allowed = float(convert(Duration, CONTAINERS[name]["stop_grace_period"]))
        needed = 10.0 + float(convert(Duration, given.get("stop_grace", "0s")))
        assert allowed >= needed + 15
    assert float(convert(Duration, flags("trainer")["stop_grace"])) > 30  # what a worker takes for itself


def test_each_image_holds_its_own_distributions():
    for name in SERVICES:
        arguments = CONTAINERS[name]["build"]["args"]
        expected = {f"finetree-{name}"} | ({"finetree-worker"} if name == "trainer" else set())
        assert set(arguments["PACKAGES"].split()) == expected
        assert arguments["MODULE"] == f"finetree_{name}"
    assert {CONTAINERS[name]["image"] for name in ONE_SHOT} == {CONTAINERS["init"]["image"]}


def test_every_build_argument_exists():
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)) | {"SOURCE_DATE_EPOCH"}
    for name in (*SERVICES, "init"):
        assert set(CONTAINERS[name]["build"]["args"]) <= declared


def test_the_base_image_is_pinned_and_the_image_itself_starts_from_nothing():
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.1\d-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["scratch", "${PYTHON_IMAGE}", "scratch"]


def test_the_image_runs_as_nobody_without_a_shell():
    last = DOCKERFILE.rpartition("\nFROM scratch\n")[2]
    assert "\nUSER 10001:10001\n" in last
    assert re.search(r'^ENTRYPOINT \["/', last, re.MULTILINE)
    assert not re.search(r"^(RUN|ADD|SHELL)\b", last, re.MULTILINE)
    assert {"version", "revision", "licenses"} <= set(re.findall(r"org\.opencontainers\.image\.(\w+)=", last))


def test_no_secret_can_be_left_in_a_layer():
    names = re.findall(r"^(?:ARG|ENV) (.+(?:\\\n.+)*)", DOCKERFILE, re.MULTILINE)
    assert not re.search(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|NETRC", " ".join(names))
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "**"  # only what is named is sent to the builder


def test_the_installer_is_pinned_by_hash():
    lines = (ROOT / "services" / "image" / "uv.txt").read_text(encoding="utf-8")
    version = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f"uv=={version[1]} \\" in lines
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", lines)) >= 2
