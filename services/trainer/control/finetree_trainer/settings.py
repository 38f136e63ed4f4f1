# SPDX-License-Identifier: Apache-2.0
"""Settings of the trainer, from flags, environment variables and a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetree_runtime.config.settings import Duration, Secret, SecretUrl, ServiceSettings, Size, listen_address, setting

NAME = "finetree-trainer"
"""Name of the service, and of the distribution whose version it has."""
ENV_PREFIX = "FINETREE_TRAINER"
"""Prefix of environment variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """Settings of the trainer; times are in seconds."""

    address: str = listen_address(50053)
    data_dir: Path = setting(Path("finetree-data"), "Folder of the trainer's database, datasets, models and jobs.")
    database_url: SecretUrl = setting(
        SecretUrl(),
        "PostgreSQL database for jobs and events, postgresql+psycopg://USER@HOST/DATABASE; a password by the variable, "
        "the file, PGPASSFILE or ?service=NAME (docs/scale.md). Default: the embedded one in data_dir.",
    )
    replica_address: str = setting(
        "",
        "HOST:PORT at which the other replicas of this trainer, on the same database and data folder, reach this one "
        "(docs/scale.md). Default: it is alone.",
    )
    replica_ca: Path | None = setting(
        None, "PEM authorities that the other replicas' certificates are of. Default: those of the system."
    )
    object_store: str = setting(
        "",
        "Where datasets, checkpoints and artifacts are kept beside data_dir: s3://BUCKET/PREFIX, gs://, az:// or "
        "file:///FOLDER (docs/scale.md). Default: nowhere else.",
    )
    object_store_options_file: Path | None = setting(
        None, "Endpoint, region and credentials of the object store (TOML). Default: those of the environment."
    )
    object_cache_bytes: Size = setting(
        0, "Most bytes in data_dir of what the object store has and no job needs now; 0: any number."
    )
    object_link_time: Duration = setting(
        900.0, "Longest time that a signed link to a file in the object store works, at most 7 d; 0: none are given."
    )
    object_link_endpoint: str = setting(
        "",
        "URL of the object store (s3:// alone) as those who follow links reach it. Default: the endpoint that the "
        "trainer uses.",
    )
    estimator_address: str = setting("127.0.0.1:50052", "Address of the estimator; jobs run without it, too.")
    service_token_file: Path | None = setting(
        None, "File with the token that calls to the estimator carry; read again when it is refused."
    )
    model_roots: tuple[str, ...] = setting((), "Folders whose models a spec may name by path.")
    hub_endpoint: str = setting("", "Model hub. Default: HF_ENDPOINT of the environment, else https://huggingface.co.")
    hub_token: Secret = setting(Secret(), "Token for gated and private models of the hub.")
    hub_offline: bool = setting(default=False, text="Download no models; use those on disk.")
    data_roots: tuple[str, ...] = setting((), "Folders whose files a spec may name as datasets by path.")
    cpu_slots: int = setting(
        1, "Jobs that may run on the CPU at once, each with its own share of the cores; preparing ones come on top."
    )
    cpu_threads: int = setting(0, "Threads of a CPU slot; 0: the cores that the trainer may use, divided by the slots.")
    memory_reserve_bytes: Size = setting(512 * 1024**2, "Memory of the machine that is promised to no job.")
    prewarm: bool = setting(default=True, text="Keep one idle worker with its libraries loaded.")
    confinement: Literal["auto", "required", "off"] = setting(
        "auto",
        "Confine workers as far as this system allows; required: do not start where it allows less "
        "(docs/threat-model.md).",
    )
    worker_user: str = setting(
        "",
        "User that workers run as, NAME or UID, with :GROUP for another group than its own; the trainer must be root. "
        "Default: its own user.",
    )
    worker_command: tuple[str, ...] = setting((), "Program that runs a task. Default: this Python, -m finetree_worker.")
    launcher: Literal["local", "ray"] = setting(
        "local", "Where workers run: local, beside the trainer; ray, on the nodes of a Ray cluster (docs/scale.md)."
    )
    ray_address: str = setting("", "Head of the Ray cluster, HOST:PORT; this machine must be one of its nodes.")
    ray_resources: tuple[str, ...] = setting(
        (), "Custom resources of Ray that a node must have and each worker takes, NAME=NUMBER."
    )
    ray_node_types_file: Path | None = setting(
        None,
        "Types of nodes that Ray's autoscaler may bring (TOML, docs/scale.md). Default: the trainer asks for no nodes.",
    )
    ray_node_wait: Duration = setting(
        900.0,
        "How long a node that was asked for may take to come; then the jobs that wait for it say that it does not.",
    )
    worker_address: str = setting(
        "", "HOST:PORT where the trainer listens for workers of other machines, which connect to it by this name."
    )
    worker_ca: Path | None = setting(
        None, "PEM authorities by which these workers know the trainer's certificate (--tls-cert)."
    )
    worker_heartbeat: Duration = setting(
        20.0,
        "Longest silence between the trainer and a worker; silent and idle four times as long, it is ended.",
    )
    base_rest: Duration = setting(
        60.0,
        "How long a worker keeps its base model loaded for the next job on the same base, unless other jobs need its "
        "memory; 0: not at all.",
    )
    start_time: Duration = setting(120.0, "Longest time from a worker's start until it attaches.")
    orphan_grace: Duration = setting(
        900.0, "How long a worker that lost the trainer continues before it saves a checkpoint and stops."
    )
    stop_grace: Duration = setting(
        0.0,
        "How long workers get, when the trainer stops, to save a checkpoint and end: for containers, whose end kills "
        "them. 0: they go on without the trainer.",
    )
    cancel_grace: Duration = setting(20.0, "Time from a cancel to SIGTERM, and from SIGTERM to SIGKILL.")
    checkpoint_grace: Duration = setting(
        120.0, "Time from a cancel that saves a checkpoint to SIGTERM, and from SIGTERM to SIGKILL."
    )
    exit_grace: Duration = setting(15.0, "Longest time from the end of a worker's task to its exit.")
    system_retries: int = setting(2, "How often a job is started again after a failure of the machine or the suite.")
    preempt_max_lost: Duration = setting(
        0.0,
        "Most age of a training's newest checkpoint with which it may be preempted by a job of a higher priority "
        "(docs/limits.md); 0: none ever is.",
    )
    preempt_min_run: Duration = setting(600.0, "Least time that a training is at work before it may be preempted.")
    max_queued: int = setting(1000, "Most jobs in the queue.")
    max_watchers: int = setting(2000, "Most watches that are open at once.")
    max_watchers_per_caller: int = setting(500, "Most watches of one caller that are open at once.")
    max_upload_bytes: int = setting(8 * 1024**3, "Most bytes of a dataset.")
    max_project_bytes: int = setting(64 * 1024**3, "Most bytes of a project's datasets together.")
    token_cache_bytes: int = setting(
        16 * 1024**3, "Most bytes of the tokenized rows that jobs share; 0: none are kept."
    )
    disk_reserve_bytes: int = setting(64 * 1024**2, "Bytes that uploads leave free on the disk.")
    event_retention: Duration = setting(
        90 * 86400.0, "How long the events of ended jobs are kept; each job keeps its newest."
    )
    retention_age: Duration = setting(
        0.0, "How long checkpoints, artifacts and datasets that nothing uses are kept; 0: for any time."
    )
    retention_bytes: Size = setting(0, "Most bytes of each kind in a project, oldest removed first; 0: any number.")
    retention_file: Path | None = setting(None, "Limits by kind and project (TOML, docs/operations.md).")
    max_request_bytes: int = setting(512 * 1024, "Most bytes of a request message, pieces of an upload excepted.")
    # A piece of an upload is up to 1 MiB, with a name and an offset.
    max_stream_message_bytes: int = setting(2 * 1024**2, "Most bytes of a piece of an upload.")
