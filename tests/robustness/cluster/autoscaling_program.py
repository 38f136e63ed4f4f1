# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of a head alone, whose autoscaler starts nodes of one processor each, at most so many.

`autoscaling_program.py PORT MAXIMUM IDLE_SECONDS`: says its address and folder, and ends all of it at the end of stdin.
Ray's own AutoscalingCluster needs a file that its wheel lacks, and ends every Ray of the machine at its start.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

FOLDER = Path(tempfile.mkdtemp(prefix="fta-", dir="/tmp"))
"""Everything of the cluster on the disk."""
STORE_BYTES = 80 * 2**20


def configuration(port: int, maximum: int, idle_seconds: float) -> dict:
    """The autoscaler's, with the provider that starts nodes as processes of this machine."""
    none = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    none += ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "test",
        "max_workers": 8,
        "upscaling_speed": 10,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            # All nodes have the same address here, by which this autoscaler knows them else.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {
                "resources": {"CPU": 1, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": maximum,
            },
        },
        "head_node": {},
        "worker_nodes": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in none},
    }


def end() -> None:
    """End every process of the cluster: each knows its folder."""
    for process in psutil.process_iter(["pid"]):
        with suppress(psutil.Error):
            if process.pid != os.getpid() and any(str(FOLDER) in text for text in process.cmdline()):
                process.kill()
    shutil.rmtree(FOLDER, ignore_errors=True)


def main() -> None:
    port, maximum, idle_seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    (FOLDER / "ray").mkdir()
    file = FOLDER / "autoscaling.json"
    file.write_text(json.dumps(configuration(port, maximum, idle_seconds)))
    settings = {
        "RAY_TMPDIR": str(FOLDER),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_health_check_timeout_ms": "30000",
    }
    command = ["ray", "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0"]
    command += [f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", f"--autoscaling-config={file}"]
    command[0] = str(Path(sys.executable).with_name("ray"))
    try:
        subprocess.run(command, check=True, stdout=2, env=os.environ | settings)
        print(json.dumps({"address": f"127.0.0.1:{port}", "folder": str(FOLDER)}), flush=True)  # noqa: T201 - an answer
        sys.stdin.read()
    finally:
        end()


if __name__ == "__main__":
    main()
