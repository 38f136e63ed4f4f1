# SPDX-License-Identifier: Apache-2.0
"""The Helm chart: what Helm itself makes of it, held against Kubernetes' schemas and against the services' settings.

Helm is a library of Go; it runs in a process of its own, once for all sets of values.
"""

import importlib.util
import json
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from finetree_console.__main__ import main as console
from finetree_estimator.settings import Settings as EstimatorSettings
from finetree_recommender.settings import Settings as RecommenderSettings
from finetree_runtime.config.values import Duration, Secret, convert
from finetree_trainer.scheduling.devices import CPU
from finetree_trainer.settings import Settings as TrainerSettings
from finetree_trainer.workers.ray.node_types import read_node_types
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "release" / "chart"
SCHEMAS = json.loads((Path(__file__).with_name("kubernetes_schemas.json")).read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="Helm's library has wheels for Linux on x86-64 alone here"
)

_PLACED = {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
_SMALL: dict[str, Any] = {"name": "small", "replicas": 1, "gpus": 0, "maximum": 3}
_SMALL["resources"] = {"requests": {"cpu": 4, "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
(_A100,) = yaml.safe_load(PAGE.partition("```yaml\n")[2].partition("```")[0])["ray"]["workers"]  # the page's example
_H100 = _A100 | {"name": "h100", "accelerator": "h100-80gb-sxm"}
_FIXED = {"name": "fixed", "replicas": 1, "gpus": 0, "resources": _SMALL["resources"]}


def _scaled(*groups: dict[str, Any]) -> dict[str, Any]:
    return {"ray": {"enabled": True, "image": "registry.example.com/ray:1", "workers": list(groups), "nodeWait": "30m"}}


VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "image": {"registry": "registry.example.com/", "tag": "1", "pullSecrets": ["pull"]},
        "recommender": {"extraArgs": ["--log-level=debug"], **_PLACED},
        "estimator": {"storage": {"size": "5Gi", "className": "fast"}, **_PLACED},
        "trainer": {
            "databaseSecret": "database",
            "objectStore": {"url": "s3://training/finetree", "optionsSecret": "s3"},
            "gpus": 2,
            "stopGraceSeconds": 90,
            **_PLACED,
        },
        "console": {"allowedHosts": ["finetree.example.com"], "replicas": 2},
        "networkPolicy": {"metrics": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "ray": {"enabled": True, "image": "registry.example.com/ray:1", "queueName": "team"},
    },
    "replicas": {"trainer": {"databaseSecret": "database", "replicas": 3, "maxUnavailable": 1}},
    "replicas with all": {
        "trainer": {
            "databaseSecret": "database",
            "objectStore": {"url": "s3://training/finetree"},
            "replicas": 2,
            "maxUnavailable": 1,
        },
        "ray": {"enabled": True, "image": "registry.example.com/ray:1"},
    },
    "autoscaling": _scaled(_SMALL, _A100, _H100),
    "little": {"console": {"enabled": False}, "networkPolicy": {"enabled": False, "metrics": []}},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a value that does not exist": ({"trainer": {"replica": 2}}, "replica"),
    "no replica": ({"recommender": {"replicas": 0}}, "replicas"),
    "a size that is none": ({"trainer": {"storage": {"size": "big"}}}, "size"),
    "no certificate": ({"secrets": {"tls": ""}}, "tls"),
    "a key in a URL": ({"trainer": {"objectStore": {"url": "s3://key:secret@bucket"}}}, "objectStore"),
    "too little time for a checkpoint": ({"trainer": {"stopGraceSeconds": 5}}, "stopGraceSeconds"),
    "an argument that is no flag": ({"trainer": {"extraArgs": ["prewarm"]}}, "extraArgs"),
    "replicas without a database": ({"trainer": {"replicas": 2}}, "databaseSecret"),
    "Ray without an image": ({"ray": {"enabled": True}}, "ray.image"),
    "some groups to scale": (_scaled(_SMALL, _FIXED), "group fixed: give it a maximum"),
    "less than is always there": (_scaled(_SMALL | {"replicas": 4}), "more than its maximum"),
    "GPUs of no kind": (_scaled(_SMALL | {"gpus": 1}), "accelerator and gpuMemory"),
    "part of a processor": (
        _scaled(_SMALL | {"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}),
        "whole number",
    ),
    "no limit of memory": (_scaled(_SMALL | {"resources": {"requests": {"cpu": "4"}}}), "limits.memory"),
    "an autoscaler under Kueue": ({"ray": {**_scaled(_SMALL)["ray"], "queueName": "team"}}, "ray.queueName"),
}

_HELM = """
import json, sys
import helm_python
chart, sets = sys.argv[1], json.load(sys.stdin)
rendered = {}
with helm_python.Chart.load(chart) as loaded:
    for name, values in sets.items():
        try:
            rendered[name] = loaded.render(values=values, name="finetree", namespace="ml")
        except helm_python.HelmError as error:
            rendered[name] = str(error)
json.dump({"lint": helm_python.lint(chart, strict=True), "rendered": rendered}, sys.stdout)
"""


@pytest.fixture(scope="module")
def helm() -> dict[str, Any]:
    """What `helm lint --strict` says, and what `helm template` makes of each set of values, or its error."""
    sets = VALUES | {name: values for name, (values, _) in REFUSED.items()}
    words = [sys.executable, "-c", _HELM, str(CHART)]
    done = subprocess.run(words, input=json.dumps(sets), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=VALUES)
def objects(request, helm) -> list[dict[str, Any]]:
    """Objects of one set of values."""
    rendered = helm["rendered"][request.param]
    assert isinstance(rendered, dict), rendered
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def workloads(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Workloads of the services by their component."""
    found = of_kind(objects, "Deployment", "StatefulSet")
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found.values()}


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates of all pods, those of Ray too."""
    found = [each["spec"]["template"] for each in workloads(objects).values()]
    for cluster in of_kind(objects, "RayCluster").values():
        groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
        found += [group["template"] for group in groups]
    return found


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def flags(workload: dict[str, Any]) -> dict[str, str]:
    words = (word.removeprefix("--").partition("=") for word in container(workload)["args"])
    return {flag.replace("-", "_"): value for flag, _, value in words}


def settings(component: str) -> set[str]:
    if component == "console":
        return {option.removeprefix("--").replace("-", "_") for each in console.params for option in each.opts}
    kinds = {"estimator": EstimatorSettings, "recommender": RecommenderSettings, "trainer": TrainerSettings}
    types = typing.get_type_hints(kinds[component])
    secret = {name for name, kind in types.items() if isinstance(kind, type) and issubclass(kind, Secret)}
    return set(types) - secret | {f"{name}_file" for name in secret}


def selected(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    return policy.items() <= labels.items()


def test_helm_finds_nothing_wrong(helm):
    assert not helm["lint"]["errors"]
    assert [each for each in helm["lint"]["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_be_meant_are_refused_by_name(helm, name):
    said = helm["rendered"][name]
    assert isinstance(said, str)
    assert REFUSED[name][1] in said


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


def test_workers_on_a_cluster_have_the_trainers_folder_and_reach_it(objects):
    clusters = of_kind(objects, "RayCluster")
    if not clusters:
        return
    ((name, cluster),) = clusters.items()
    trainer = workloads(objects)["trainer"]
    given, service = flags(trainer), trainer["spec"]["serviceName"]
    # KubeRay's name for its Service.
    assert (given["launcher"], given["ray_address"]) == ("ray", f"{name}-head-svc:6379")
    host, _, port = given["worker_address"].partition(":")
    assert host == f"$(POD_NAME).{service}.ml.svc.cluster.local"
    assert port not in {given["address"].rpartition(":")[2], given["metrics_address"].rpartition(":")[2]}
    ((claim, wanted),) = of_kind(objects, "PersistentVolumeClaim").items()
    assert wanted["spec"]["accessModes"] == ["ReadWriteMany"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (node,) = pod["containers"]
        assert node["image"] == container(trainer)["image"]
        places = {each["mountPath"] for each in node["volumeMounts"]}
        assert {"/var/lib/finetree", given["worker_ca"]} <= places
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"] == {"claimName": claim}
        # The key stays with the services.
        assert volumes["tls"]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    (member,) = trainer["spec"]["template"]["spec"]["initContainers"]
    assert member["restartPolicy"] == "Always"
    assert f"--address={given['ray_address']}" in member["command"]
    nodes = {"podSelector": {"matchLabels": {"ray.io/cluster": name}}}
    policies = of_kind(objects, "NetworkPolicy")
    assert {"from": [nodes]} in policies[trainer["metadata"]["name"]]["spec"]["ingress"]
    assert {"to": [nodes]} in policies[trainer["metadata"]["name"]]["spec"]["egress"]
    assert policies[name]["spec"]["podSelector"] == nodes["podSelector"]


def test_the_trainer_and_the_autoscaler_know_the_same_types_of_nodes(objects, tmp_path):
    maps, given = of_kind(objects, "ConfigMap"), flags(workloads(objects)["trainer"])
    for cluster in of_kind(objects, "RayCluster").values():
        assert cluster["spec"]["enableInTreeAutoscaling"] is bool(maps)
    if not maps:
        assert not {"ray_node_types_file", "ray_node_wait"} & set(given)
        return
    (name, held), (cluster,) = *maps.items(), of_kind(objects, "RayCluster").values()
    trainer = workloads(objects)["trainer"]
    (volume,) = [each for each in trainer["spec"]["template"]["spec"]["volumes"] if "configMap" in each]
    (mount,) = [each for each in container(trainer)["volumeMounts"] if each["name"] == volume["name"]]
    assert (volume["configMap"], mount["readOnly"]) == ({"name": name}, True)
    folder, _, file = given["ray_node_types_file"].rpartition("/")
    assert (mount["mountPath"], given["ray_node_wait"]) == (folder, "30m")
    (tmp_path / file).write_text(held["data"][file], encoding="utf-8")
    types = {each.name: each for each in read_node_types(TrainerSettings(ray_node_types_file=tmp_path / file), {})}
    assert [each.maximum for each in types.values()] == [3, 4, 4]
    # What Ray's own autoscaler makes of the object; the head is its first type.
    known = _generate_available_node_types_from_ray_cr_spec(cluster["spec"])
    groups = {each["groupName"]: each for each in cluster["spec"]["workerGroupSpecs"]}
    assert set(known) - set(types) == {"headgroup"}
    for type_ in types.values():
        ray, (node,) = known[type_.name], groups[type_.name]["template"]["spec"]["containers"]
        assert (ray["min_workers"], ray["max_workers"]) == (int(type_.name == "small"), type_.maximum)
        assert "replicas" not in groups[type_.name]
        counted = {key: value for key, value in ray["resources"].items() if value}
        assert counted == {**type_.resources, "memory": type_.cpu.total_bytes}
        gpus = [device for device in type_.devices if device.id != CPU]
        assert node["resources"]["limits"].get("nvidia.com/gpu", 0) == len(gpus)
        assert all((gpu.kind[:4], gpu.total_bytes) == (type_.name, 80_000_000_000) for gpu in gpus)


def test_only_the_autoscaler_may_change_the_cluster(objects):
    for cluster in of_kind(objects, "RayCluster").values():
        volumes = {each["name"]: each for each in cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]}
        tokens = {name for name, each in volumes.items() if "projected" in each}
        (ray,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
        assert not tokens & {each["name"] for each in ray["volumeMounts"]}
        scaler = cluster["spec"].get("autoscalerOptions", {})
        assert tokens == {each["name"] for each in scaler.get("volumeMounts", ())} - {"tmp"}
        if tokens:
            assert scaler["securityContext"] == ray["securityContext"]


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
