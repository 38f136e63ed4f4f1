# SPDX-License-Identifier: Apache-2.0
"""Workers of the Helm chart on a Ray cluster: its folder, its network, and the nodes that come when they are needed."""

from chart_objects import container, flags, needs_helm, of_kind, workloads
from finetree_trainer.scheduling.devices import CPU
from finetree_trainer.settings import Settings
from finetree_trainer.workers.ray.node_types import read_node_types
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

pytestmark = needs_helm


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
    types = {each.name: each for each in read_node_types(Settings(ray_node_types_file=tmp_path / file), {})}
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
