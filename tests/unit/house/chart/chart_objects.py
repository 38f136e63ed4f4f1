# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Helm chart share: sets of values, the objects that Helm makes of them, and looks at those.

Helm is a library of Go; it runs in a process of its own, once for all sets of values.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
CHART = ROOT / "release" / "chart"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")

needs_helm = pytest.mark.skipif(
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


def rendered() -> dict[str, Any]:
    """What `helm lint --strict` says, and what `helm template` makes of each set of values, or its error."""
    sets = VALUES | {name: values for name, (values, _) in REFUSED.items()}
    words = [sys.executable, "-c", _HELM, str(CHART)]
    done = subprocess.run(words, input=json.dumps(sets), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
