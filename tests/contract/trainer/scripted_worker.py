# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - a script of one process, which may wait for files and processes
"""A worker without torch: a real process that speaks Attach, told by a JSON script what to do.

Script keys, all optional: `steps`, `delay` (seconds between steps), `start_delay`, `kill_at` {attempt: step},
`deaf` (ignores cancel and SIGTERM), `child` (starts a process of its own that ignores SIGTERM), `outcome`
("failed", "interrupted", or "interrupted_once"), `artifact`, `profile`, `linger` (does not exit after its outcome),
`never_attach`, `phases`, `report` (tokens that a dataset report counts for the train split), `offline_after` (ends its
stream after that step and never comes back), `loss` (one for each step), `environment`, `evaluations` and `samples`
(EvalMetrics and Samples as proto JSON, reported after the steps), `log` (the text of a line of the job's log for each
step; `log_limit` bytes in each of its files), `summary` (fields of the outcome's RunSummary), `preview` (PreviewRows as
proto JSON that it keeps as the artifact of a report), `drafts` (leaves a half-written checkpoint
and a half-written artifact).
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_data import journal
from finetree_data.log_file import JOB_LOG, SEGMENT_BYTES, LogFile
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
KINDS = {"train": job_pb2.TASK_KIND_TRAIN, "prepare": job_pb2.TASK_KIND_PREPARE}
OUTCOMES = {
    "succeeded": worker_pb2.OUTCOME_KIND_SUCCEEDED,
    "failed": worker_pb2.OUTCOME_KIND_FAILED,
    "interrupted": worker_pb2.OUTCOME_KIND_INTERRUPTED,
    "cancelled": worker_pb2.OUTCOME_KIND_CANCELLED,
}


class ScriptedWorker:
    """One process: attaches, takes one task, reports it, exits."""

    def __init__(self, address: str, script: dict) -> None:
        self.address, self.script = address, script
        self.token = os.environ["FINETREE_WORKER_TOKEN"]
        self.boot_id = os.urandom(8).hex()
        self.task = None
        self.events: list[worker_pb2.WorkerEvent] = []
        self.acknowledged = 0
        self.news = asyncio.Event()
        self.got_task = asyncio.Event()
        self.stop = ""
        self.offline = False
        self.journal = None

    async def run(self) -> None:
        if self.script.get("never_attach"):
            # For a test that attaches in its place.
            Path("secret.txt").write_text(f"{self.address} {self.token}")
            await asyncio.sleep(60)
        await asyncio.sleep(self.script.get("start_delay", 0))
        loop = asyncio.get_running_loop()
        if self.script.get("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            loop.add_signal_handler(signal.SIGTERM, self._terminated)
        link = asyncio.create_task(self._link())
        await self.got_task.wait()
        await self._work()
        deadline = time.monotonic() + 30
        while self.acknowledged < len(self.events) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if self.script.get("linger"):
            await asyncio.sleep(60)
        link.cancel()

    def _terminated(self) -> None:
        if self.task is None:
            os._exit(0)
        self.stop = self.stop or "interrupted"

    async def _link(self) -> None:
        while True:
            try:
                await self._attach()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    os._exit(77)
            except EOFError:
                pass
            if self.offline:
                await asyncio.sleep(60)
            await asyncio.sleep(0.05)

    async def _attach(self) -> None:
        async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            with contextlib.suppress(asyncio.InvalidStateError):
                await call.write(worker_pb2.AttachRequest(hello=self._hello()))
            await self._read_one(call)
            if (profile := self.script.get("profile")) and self.task is None:
                rates = hardware_pb2.MatrixRates(bf16_flops_per_second=profile, fp32_flops_per_second=profile / 4)
                measured = worker_pb2.HostProfile(matrix_rates=rates, threads=2, cpu_name="scripted")
                await call.write(worker_pb2.AttachRequest(host_profile=measured))
            sender = asyncio.create_task(self._send(call))
            try:
                while not self.offline:
                    await self._read_one(call)
            finally:
                sender.cancel()
                call.cancel()

    async def _read_one(self, call) -> None:
        response = await call.read()
        if response is grpc.aio.EOF:
            raise EOFError
        match response.WhichOneof("message"):
            case "welcome":
                self.acknowledged = response.welcome.acknowledged
                self.sent = response.welcome.acknowledged
                if response.welcome.HasField("task"):
                    self._take(response.welcome.task)
            case "task":
                self._take(response.task)
            case "acknowledge":
                self.acknowledged = max(self.acknowledged, response.acknowledge.acknowledged)
            case "fenced":
                os._exit(77)
            case "command" if response.command.kind == worker_pb2.COMMAND_KIND_SHUTDOWN:
                os._exit(0)
            case "command" if response.command.kind == worker_pb2.COMMAND_KIND_CANCEL and not self.script.get("deaf"):
                self.stop = "cancelled"

    async def _send(self, call) -> None:
        while True:
            fresh = self.events[self.sent : self.sent + 100]
            if fresh:
                await call.write(worker_pb2.AttachRequest(events=worker_pb2.WorkerEventBatch(events=fresh)))
                self.sent += len(fresh)
                continue
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), 1)
            except TimeoutError:
                await call.write(worker_pb2.AttachRequest(heartbeat=worker_pb2.WorkerHeartbeat()))

    def _hello(self) -> worker_pb2.Hello:
        task = self.task
        return worker_pb2.Hello(
            protocol_version=self.script.get("protocol", 1),
            task_kind=0 if task is None else KINDS[task.WhichOneof("task")],
            job="" if task is None else task.job,
            attempt=0 if task is None else task.attempt,
            token=self.token if task is None else task.token,
            boot_id=self.boot_id,
            pid=os.getpid(),
        )

    def _take(self, task) -> None:
        if self.task is None:
            self.task = task
            folder = Path(task.folders.work_dir)
            self.journal = (folder / journal.FILE_NAME).open("ab")
            self.log = LogFile(folder, JOB_LOG, segment_bytes=self.script.get("log_limit", SEGMENT_BYTES), newest=2)
            self.got_task.set()

    def _emit(self, event=None, outcome=None) -> None:
        numbered = worker_pb2.WorkerEvent(worker_seq=len(self.events) + 1, event=event, outcome=outcome)
        self.journal.write(journal.encode(numbered))
        self.journal.flush()
        self.events.append(numbered)
        self.news.set()

    def _phase(self, phase: int, fraction: float = 1.0) -> None:
        self._emit(event_pb2.JobEvent(phase_progress=event_pb2.PhaseProgress(phase=phase, fraction=fraction)))

    async def _work(self) -> None:
        script, task = self.script, self.task
        started = event_pb2.AttemptStarted(
            reason=event_pb2.ATTEMPT_REASON_FIRST if task.attempt == 1 else event_pb2.ATTEMPT_REASON_RECOVERED,
            placements=task.placements,
            engine="scripted",
            environment=script.get("environment", {}),
        )
        if script.get("child"):
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
            subprocess.Popen([sys.executable, "-c", code])
        self._emit(event_pb2.JobEvent(attempt_started=started))
        for phase in script.get("phases", [job_pb2.JOB_PHASE_LOAD_MODEL, job_pb2.JOB_PHASE_TOKENIZE]):
            self._phase(phase)
        if tokens := script.get("report"):
            report = event_pb2.DatasetReport(split=training_data_pb2.SPLIT_TRAIN)
            report.profile.MergeFrom(training_data_pb2.DatasetProfile(examples=20, total_tokens=tokens, exact=True))
            self._emit(event_pb2.JobEvent(dataset_report=report))
        self._leave_drafts()
        kill_at = script.get("kill_at", {}).get(str(task.attempt))
        steps = script.get("steps", 3)
        for step in range(1, steps + 1):
            if self.stop and not script.get("deaf"):
                break
            self._say(step)
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            metrics = self._metrics(step, steps)
            self._emit(event_pb2.JobEvent(step_metrics=metrics, message=f"step {step}"))
            if script.get("offline_after") == step:
                while self.acknowledged < len(self.events):
                    await asyncio.sleep(0.005)
                self.offline = True
            await asyncio.sleep(script.get("delay", 0))
        self._evaluate()
        if not self.stop:
            self._artifacts()
        self._emit(outcome=self._outcome())

    def _evaluate(self) -> None:
        for each in self.script.get("evaluations", ()):
            self._emit(event_pb2.JobEvent(eval_metrics=json_format.ParseDict(each, event_pb2.EvalMetrics())))
        for each in self.script.get("samples", ()):
            self._emit(event_pb2.JobEvent(sample=json_format.ParseDict(each, event_pb2.Sample())))

    def _metrics(self, step: int, steps: int) -> event_pb2.StepMetrics:
        losses = self.script.get("loss") or [4 / number for number in range(1, steps + 1)]
        return event_pb2.StepMetrics(
            step=step,
            total_steps=steps,
            loss=losses[step - 1],
            learning_rate=1e-3,
            epoch=step / steps,
            processed_tokens=100 * step,
            step_seconds=0.5,
            tokens_per_second=200,
        )

    def _say(self, step: int) -> None:
        if "log" in self.script:
            self.log.write(f"attempt {self.task.attempt} step {step}: {self.script['log']}")

    def _leave_drafts(self) -> None:
        if not self.script.get("drafts"):
            return
        for folder in (self.task.folders.checkpoint_dir, self.task.folders.artifact_dir):
            draft = Path(folder) / f".step-5.{os.getpid()}.tmp"
            draft.mkdir(parents=True)
            (draft / "weights.safetensors").write_bytes(bytes(1000))
            (Path(folder) / f".best.{os.getpid()}").write_text("{}")

    def _artifacts(self) -> None:
        if self.script.get("artifact"):
            self._artifact("adapter", artifact_pb2.ARTIFACT_KIND_ADAPTER, "weights.bin", bytes(range(256)) * 4096)
        if rows := self.script.get("preview"):
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self._artifact("preview", artifact_pb2.ARTIFACT_KIND_REPORT, "rows.jsonl", content)

    def _artifact(self, name: str, kind: int, path: str, content: bytes) -> None:
        folder = Path(self.task.folders.artifact_dir) / name
        folder.mkdir()
        (folder / path).write_bytes(content)
        file = artifact_pb2.ArtifactFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        artifact = artifact_pb2.Artifact(name=f"{self.task.job}/artifacts/{name}", kind=kind, files=[file])
        self._emit(event_pb2.JobEvent(artifact_ready=event_pb2.ArtifactReady(artifact=artifact)))

    def _outcome(self) -> worker_pb2.TaskOutcome:
        wanted = self.stop or self.script.get("outcome", "succeeded")
        if wanted == "interrupted_once":
            wanted = "interrupted" if self.task.attempt == 1 else "succeeded"
        outcome = worker_pb2.TaskOutcome(kind=OUTCOMES[wanted])
        if summary := self.script.get("summary"):
            outcome.summary.MergeFrom(event_pb2.RunSummary(**summary))
        if wanted == "failed":
            outcome.error.CopyFrom(status_pb2.Status(code=3, message="The loss was not finite."))
            info = error_details_pb2.ErrorInfo(
                reason="DIVERGED", domain="finetree", metadata={"remedy": "Lower the learning rate."}
            )
            outcome.error.details.add().Pack(info)
            outcome.failure_category = job_pb2.FAILURE_CATEGORY_USER
        return outcome


LONGEST_LIFE = 45
"""Seconds after which a forgotten worker ends: no test takes as long."""


def main() -> None:
    signal.alarm(LONGEST_LIFE)
    parser = argparse.ArgumentParser()
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()

    async def run() -> None:
        await ScriptedWorker(options.socket, json.loads(options.script.read_text())).run()

    asyncio.run(run())


main()
