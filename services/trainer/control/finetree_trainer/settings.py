# SPDX-License-Identifier: Apache-2.0
"""What the trainer can be told; each by flag, environment variable or file (see finetree_runtime.config.settings)."""

import dataclasses
from pathlib import Path

from finetree_runtime.config.settings import Duration, Secret, ServiceSettings, listen_address, setting


@dataclasses.dataclass(frozen=True, slots=True)
class Settings(ServiceSettings):
    """Settings of the trainer."""

    address: str = listen_address(50053)
    data_dir: Path = setting(Path("finetree-data"), "Folder of everything the trainer keeps.")
    estimator_address: str = setting("127.0.0.1:50052", "Where the estimator is; it may be down.")
    model_roots: tuple[str, ...] = setting((), "Folders that models may be named from by path.")
    hub_endpoint: str = setting("", "Model hub. Default: HF_ENDPOINT of the environment, else https://huggingface.co.")
    hub_token: Secret = setting(Secret(), "Token for gated and private models of the hub.")
    hub_offline: bool = setting(default=False, text="Download no models; use what is there.")
    data_roots: tuple[str, ...] = setting((), "Folders that datasets may be named from by path.")
    cpu_slots: int = setting(1, "Jobs that may train on the CPU at once.")
    cpu_threads: int = setting(0, "Threads of a CPU slot; 0: the machine's cores over the slots.")
    prewarm: bool = setting(default=True, text="Keep one worker waiting with its libraries loaded.")
    worker_command: tuple[str, ...] = setting((), "Program that runs a task. Default: this Python, -m finetree_worker.")
    worker_heartbeat: Duration = setting(20.0, "Longest silence between the trainer and a worker.")
    start_time: Duration = setting(120.0, "Longest time from a worker's start until it attaches.")
    orphan_grace: Duration = setting(900.0, "How long a worker that lost the trainer works on before it stops.")
    cancel_grace: Duration = setting(20.0, "From a cancel to SIGTERM, and from SIGTERM to SIGKILL.")
    checkpoint_grace: Duration = setting(120.0, "The same, for a cancel that saves a checkpoint.")
    exit_grace: Duration = setting(15.0, "How long a worker may take to exit after its task has ended.")
    system_retries: int = setting(2, "How often a job is started again after a failure that is not its own.")
    max_queued: int = setting(1000, "Jobs that may wait.")
    max_watchers: int = setting(2000, "Watches that may be open at once.")
    max_watchers_per_caller: int = setting(500, "Watches of one caller that may be open at once.")
    max_upload_bytes: int = setting(8 * 1024**3, "Largest dataset.")
    max_project_bytes: int = setting(64 * 1024**3, "Largest sum of a project's datasets.")
    token_cache_bytes: int = setting(16 * 1024**3, "Tokenised rows that jobs share; 0: none are kept.")
    disk_reserve_bytes: int = setting(64 * 1024**2, "Free space that uploads leave on the disk.")
    event_retention: Duration = setting(90 * 86400.0, "How long events are kept; a job's newest stay.")
    # A piece of an upload is up to 1 MiB, and has a name and an offset around it.
    max_request_bytes: int = setting(2 * 1024**2, "Largest request message.")
