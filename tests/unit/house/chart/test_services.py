# SPDX-License-Identifier: Apache-2.0
"""The services of the Helm chart: held against Kubernetes' schemas, their own settings and each other."""

import json
import re
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from chart_objects import ROOT, container, flags, needs_helm, of_kind, pods, workloads
from finetree_console.__main__ import main as console
from finetree_estimator.settings import Settings as EstimatorSettings
from finetree_recommender.settings import Settings as RecommenderSettings
from finetree_runtime.config.values import Duration, Secret, convert
from finetree_trainer.settings import Settings as TrainerSettings

SCHEMAS = json.loads((Path(__file__).with_name("kubernetes_schemas.json")).read_text(encoding="utf-8"))

pytestmark = needs_helm


def settings(component: str) -> set[str]:
    if component == "console":
        return {option.removeprefix("--").replace("-", "_") for each in console.params for option in each.opts}
    kinds = {"estimator": EstimatorSettings, "recommender": RecommenderSettings, "trainer": TrainerSettings}
    types = typing.get_type_hints(kinds[component])
    secret = {name for name, kind in types.items() if isinstance(kind, type) and issubclass(kind, Secret)}
    return set(types) - secret | {f"{name}_file" for name in secret}


def selected(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    return policy.items() <= labels.items()


def test_every_object_fits_its_schema(objects):
    for each in objects:
        schema = {"$ref": f"#/$defs/{each['kind']}", "$defs": SCHEMAS["$defs"]}
        jsonschema.Draft202012Validator(schema).validate(each)
    assert {"Deployment", "StatefulSet", "Service", "PodDisruptionBudget"} <= {each["kind"] for each in objects}
    assert not of_kind(objects, "Secret", "Role", "ClusterRole")


@pytest.mark.parametrize(
    "wrong",
    [
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"selector": {}, "template": {"spec": {"replica": 1}}}},
        {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": "grpc"}]}},
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {"workerGroupSpecs": []}},
    ],
)
def test_a_schema_notices_what_does_not_fit(wrong):
    schema = {"$ref": f"#/$defs/{wrong['kind']}", "$defs": SCHEMAS["$defs"]}
    assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


def test_every_flag_is_a_setting(objects):
    for component, workload in workloads(objects).items():
        assert set(flags(workload)) <= settings(component)


def test_a_service_speaks_tls_and_asks_who_calls(objects):
    for component, workload in workloads(objects).items():
        given = flags(workload)
        assert (given["tls_cert"], given["tls_key"]) == ("/etc/finetree/tls/tls.crt", "/etc/finetree/tls/tls.key")
        assert "insecure" not in given
        assert "pass_tokens" in given if component == "console" else given["access_dir"] == "/etc/finetree/access"
        called = {value for flag, value in given.items() if flag.endswith("_address") and "://" in value}
        assert all(address.startswith("https://") for address in called)
        variables = {each["name"]: each.get("value") for each in container(workload).get("env", [])}
        assert variables.get("FINETREE_TLS_CA") == ("/etc/finetree/tls/ca.crt" if called else None)


def test_every_file_that_a_flag_names_is_mounted(objects):
    for workload in workloads(objects).values():
        mounts = {each["mountPath"]: each["name"] for each in container(workload)["volumeMounts"]}
        volumes = {each["name"]: each for each in workload["spec"]["template"]["spec"]["volumes"]}
        for value in flags(workload).values():
            if value.startswith("/etc/finetree/"):
                folder = value if value in mounts else value.rpartition("/")[0]
                assert ("configMap" if folder.endswith("/node-types") else "secret") in volumes[mounts[folder]]
        claimed = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        assert set(mounts.values()) <= set(volumes) | claimed
        assert set(volumes) <= set(mounts.values())


def test_a_pod_may_do_as_little_as_possible(objects):
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001  # of the images: services/Dockerfile
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(spec)
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in each["resources"]["limits"]
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert spec["automountServiceAccountToken"] is False


def test_probes_ask_ports_that_are_there(objects):
    for component, workload in workloads(objects).items():
        ports = {each["name"]: each["containerPort"] for each in container(workload)["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            asked = container(workload)[probe]["httpGet"]
            assert asked["port"] in ports
            assert asked["path"] == ("/healthz" if component == "console" or probe == "livenessProbe" else "/readyz")
        if component != "console":
            assert flags(workload)["metrics_address"] == f"0.0.0.0:{ports['metrics']}"
        assert flags(workload)["address"] == f"0.0.0.0:{ports['https' if component == 'console' else 'grpc']}"


def test_services_and_budgets_select_the_pods_of_one_workload(objects):
    found = workloads(objects)
    for component, workload in found.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for kind in ("Service", "PodDisruptionBudget"):
            (each,) = [it for it in of_kind(objects, kind).values() if it["metadata"]["labels"] == labels]
            selector = each["spec"]["selector"]
            chosen = selector if kind == "Service" else selector["matchLabels"]
            by = [name for name, it in found.items() if selected(chosen, it["spec"]["template"]["metadata"]["labels"])]
            assert by == [component]
        service = of_kind(objects, "Service")[workload["metadata"]["name"]]
        if component != "console":
            assert service["spec"]["clusterIP"] == "None"  # a client's resolver sees each replica
        names = {each["name"] for each in container(workload)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        if workload["kind"] == "StatefulSet":
            assert workload["spec"]["serviceName"] == service["metadata"]["name"]


def test_policies_let_each_service_reach_those_that_it_calls_and_nobody_else(objects):
    found = workloads(objects)
    policies = of_kind(objects, "NetworkPolicy")
    if not policies:
        return
    names = {workload["metadata"]["name"]: component for component, workload in found.items()}
    for component, workload in found.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        mine = policies[workload["metadata"]["name"]]["spec"]
        assert selected(mine["podSelector"]["matchLabels"], labels)
        assert set(mine["policyTypes"]) == {"Ingress", "Egress"}
        called = {
            (names[host], int(port))
            for host, port in re.findall(r"https://([a-z-]+):(\d+)", " ".join(container(workload)["args"]))
        }
        if component == "trainer":
            called.add((component, 50053))  # replicas send on to the one that leads
        allowed = {
            (peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"], port["port"])
            for rule in mine["egress"]
            for peer in rule.get("to", [])
            if "app.kubernetes.io/component" in peer["podSelector"]["matchLabels"]
            for port in rule["ports"]
        }
        assert allowed == called
        for other, port in called:
            entry = policies[found[other]["metadata"]["name"]]["spec"]["ingress"][0]
            assert entry["ports"] == [{"port": port, "protocol": "TCP"}]
            assert any(
                selected(peer["podSelector"]["matchLabels"], labels)
                for peer in entry["from"]
                if peer.get("podSelector", {}).get("matchLabels")
            )


def test_a_pod_gets_the_time_that_its_workers_need(objects):
    for workload in workloads(objects).values():
        needed = 10.0 + float(convert(Duration, flags(workload).get("stop_grace", "0s")))
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= needed + 15


def test_replicas_share_a_folder_and_know_each_other_by_name(objects):
    trainer = workloads(objects)["trainer"]
    given, (claim,) = flags(trainer), of_kind(objects, "PersistentVolumeClaim").values()
    (volume,) = [each for each in trainer["spec"]["template"]["spec"]["volumes"] if each["name"] == "data"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert given["audit_dir"].endswith("/$(POD_NAME)")
    assert container(trainer)["env"][-1]["name"] == "POD_NAME"
    if trainer["spec"]["replicas"] == 1:
        assert "replica_address" not in given
        return
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    own = f"$(POD_NAME).{trainer['spec']['serviceName']}.ml.svc.cluster.local"
    assert given["replica_address"] == f"{own}:{given['address'].rpartition(':')[2]}"
    assert given["replica_ca"] == "/etc/finetree/tls/ca.crt"


def test_images_are_those_that_are_built_here(objects):
    built = set(re.findall(r"image: (finetree/\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    for component, workload in workloads(objects).items():
        image = container(workload)["image"].removeprefix("registry.example.com/").rpartition(":")[0]
        # With workers on a cluster the trainer's has Ray and a shell too, and is its owner's.
        assert image in built or (component == "trainer" and of_kind(objects, "RayCluster"))
