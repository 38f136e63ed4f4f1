# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ASYNC110, ASYNC220, ASYNC230, ASYNC240 - a script of one process, which may wait for files and processes
"""A worker without torch: a real process that speaks Attach, told by a JSON script what to do.

Script keys, all optional: `steps`, `delay` (seconds between steps), `start_delay`, `kill_at` {attempt: step}, `kill_by`
(the name of that signal), `deaf` (ignores cancel and SIGTERM), `child` (starts a process of its own that ignores
SIGTERM), `outcome` ("failed", "interrupted", or "interrupted_once"), `artifact`, `profile`, `linger` (does not exit
after its outcome), `never_attach`, `phases`, `report` (tokens that a dataset report counts for the train split),
`offline_after` (ends its stream after that step and never comes back), `loss` (one for each step), `environment`,
`evaluations` and `samples` (EvalMetrics and Samples as proto JSON, reported after the steps), `log` (the text of a line
of the job's log for each step; `log_limit` bytes in each of its files), `summary` (fields of the outcome's RunSummary),
`preview` (PreviewRows as proto JSON that it keeps as the artifact of a report), `drafts` (leaves a half-written
checkpoint and a half-written artifact), `losses` {rank: held-out loss}: after every `evaluation.every_steps` and at the
end it reports that loss of the LoRA rank that it trains with; `cost` (EUR of each step), `adapter` (the artifact is a
LoRA adapter of acme/tiny), `checkpoints` (steps after which one is saved, the newest two are kept and the first is the
best, with an evaluation).
 `export` (fields of the ExportReport that it reports, beside which it keeps its task as task.binpb).
Of a task that serves: `piece_delay` (seconds between words), `words` (of an answer),
 `most_targets`, `die_at` (the word before which it kills itself, in its first attempt).
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, event_pb2, export_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_data.exchange import journal
from finetree_data.exchange.log_file import JOB_LOG, SEGMENT_BYTES, LogFile
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

sys.path.append(str(Path(__file__).parents[2] / "unit/data/weights"))
import weight_files

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
KINDS = {
    "train": job_pb2.TASK_KIND_TRAIN,
    "prepare": job_pb2.TASK_KIND_PREPARE,
    "export": job_pb2.TASK_KIND_EXPORT,
    "evaluate": job_pb2.TASK_KIND_EVALUATE,
    "serve": job_pb2.TASK_KIND_SERVE,
}
OUTCOMES = {
    "succeeded": worker_pb2.OUTCOME_KIND_SUCCEEDED,
    "failed": worker_pb2.OUTCOME_KIND_FAILED,
    "interrupted": worker_pb2.OUTCOME_KIND_INTERRUPTED,
    "cancelled": worker_pb2.OUTCOME_KIND_CANCELLED,
    "paused": worker_pb2.OUTCOME_KIND_PAUSED,
    "finished_early": worker_pb2.OUTCOME_KIND_FINISHED_EARLY,
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
        self.call = None
        self.writing = asyncio.Lock()
        self.loaded: dict[str, serving_pb2.LoadedTarget] = {}
        self.generations: dict[int, asyncio.Task] = {}

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
        await (self._keep_serving() if self.task.HasField("serve") else self._work())
        deadline = time.monotonic() + 60
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
                fields = profile if isinstance(profile, dict) else {"bf16": profile, "fp32": profile / 4}
                named = {f"{name}_flops_per_second": value for name, value in fields.items()}
                rates = hardware_pb2.MatrixRates(**named)
                measured = worker_pb2.HostProfile(matrix_rates=rates, threads=2, cpu_name="scripted")
                await call.write(worker_pb2.AttachRequest(host_profile=measured))
            self.call = call
            sender = asyncio.create_task(self._send(call))
            try:
                while not self.offline:
                    await self._read_one(call)
            finally:
                sender.cancel()
                call.cancel()
                self.generations.clear()

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
            case "serving":
                await self._serve(response.serving)
            case "fenced":
                os._exit(77)
            case "command" if not self.script.get("deaf"):
                self._obey(response.command.kind)

    def _obey(self, command: int) -> None:
        if command == worker_pb2.COMMAND_KIND_SHUTDOWN:
            os._exit(0)
        if command == worker_pb2.COMMAND_KIND_CANCEL:
            self.stop = "cancelled"
        if command == worker_pb2.COMMAND_KIND_PAUSE:
            self.stop = self.stop or "paused"
        if command == worker_pb2.COMMAND_KIND_FINISH:
            self.stop = "finished_early"

    async def _send(self, call) -> None:
        while True:
            fresh = self.events[self.sent : self.sent + 100]
            if fresh:
                await self._write(call, events=worker_pb2.WorkerEventBatch(events=fresh))
                self.sent += len(fresh)
                continue
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), 1)
            except TimeoutError:
                await self._write(call, heartbeat=worker_pb2.WorkerHeartbeat())

    async def _write(self, call, **message) -> None:
        async with self.writing:
            await call.write(worker_pb2.AttachRequest(**message))

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

    async def _serve(self, request) -> None:
        match request.WhichOneof("request"):
            case "load":
                target = request.load.target
                if target.name in self.loaded:
                    await self._refuse(request.id, "TARGET_EXISTS")
                    return
                if len(self.loaded) >= self.script.get("most_targets", 16):
                    await self._refuse(request.id, "TARGET_LIMIT")
                    return
                loaded = self._load(target)
                self._tell(serving_pb2.SERVING_CHANGE_LOADED, target.name)
                await self._reply(request.id, loaded=loaded)
            case "unload":
                del self.loaded[request.unload]
                self._tell(serving_pb2.SERVING_CHANGE_UNLOADED, request.unload)
                await self._reply(request.id, unloaded=worker_pb2.TargetUnloaded())
            case "generate":
                self.generations[request.id] = asyncio.create_task(self._generate(request.id, request.generate))
            # Not by cancelling the task: that would end the stream on which it writes.
            case "cancel" if self.generations.pop(request.id, None) is not None:
                with Path(self.task.folders.work_dir, "cancelled.txt").open("a") as file:
                    file.write(f"{request.id}\n")

    async def _generate(self, number: int, asked) -> None:
        """Answers with the target's name and as many words of the prompt as are wanted, the targets in turn."""
        text = asked.prompt or asked.conversation.messages[-1].content
        if text.startswith("refuse "):
            await self._refuse(number, text.partition(" ")[2])
            return
        words = [*text.split(), *(str(index) for index in range(self.script.get("words", 3)))]
        words = words[: asked.sampling.max_new_tokens]
        for place, word in enumerate(words):
            if number not in self.generations:
                return
            if place == self.script.get("die_at") and self.task.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            for index, name in enumerate(asked.targets):
                piece = serving_pb2.GenerationPiece(target_index=index, text=f"{name}:" * (place == 0) + f"{word} ")
                if place + 1 == len(words):
                    piece.finish.reason = serving_pb2.FINISH_REASON_STOP
                    piece.finish.new_tokens = len(words)
                await self._reply(number, generated=serving_pb2.GenerateResponse(pieces=[piece]))
            await asyncio.sleep(self.script.get("piece_delay", 0))
        usage = serving_pb2.GenerationUsage(first_token_seconds=0.1, total_seconds=1, new_tokens=len(words))
        self.generations.pop(number, None)
        await self._reply(number, generated=serving_pb2.GenerateResponse(usage=usage))

    def _load(self, target) -> serving_pb2.LoadedTarget:
        loaded = serving_pb2.LoadedTarget(name=target.name, weights=target.weights, size_bytes=1000)
        self.loaded[target.name] = loaded
        return loaded

    def _tell(self, change: int, target: str = "") -> None:
        changed = serving_pb2.ServingChanged(change=change, target=target, targets=self.loaded.values())
        self._emit(event_pb2.JobEvent(serving_changed=changed))

    async def _reply(self, number: int, **answer) -> None:
        await self._write(self.call, serving=worker_pb2.ServingReply(id=number, **answer))

    async def _refuse(self, number: int, reason: str) -> None:
        """As the worker's own errors are: the message ends with the remedy, which stands in the details too."""
        error = status_pb2.Status(code=3, message=f"It is refused: {reason}. Ask for less.")
        metadata = {"remedy": "Ask for less.", "field": "prompt"}
        error.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="finetree", metadata=metadata))
        where = error_details_pb2.BadRequest.FieldViolation(
            field="prompt", description=f"It is refused: {reason}.", reason=reason
        )
        error.details.add().Pack(error_details_pb2.BadRequest(field_violations=[where]))
        await self._reply(number, error=error)

    async def _keep_serving(self) -> None:
        self._phase(job_pb2.JOB_PHASE_LOAD_MODEL)
        for target in self.task.serve.targets:
            self._load(target)
        self._tell(serving_pb2.SERVING_CHANGE_READY)
        while not self.stop:
            await asyncio.sleep(0.02)
        self._emit(outcome=self._outcome())

    async def _work(self) -> None:
        script, task = self.script, self.task
        started = event_pb2.AttemptStarted(
            reason=task.attempt_reason or (1 if task.attempt == 1 else event_pb2.ATTEMPT_REASON_RECOVERED),
            placements=task.placements,
            engine="scripted",
            environment=script.get("environment", {"torch": "9.9", "machine": "scripted"}),
        )
        if script.get("child"):
            code = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({LONGEST_LIFE})"
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
                os.kill(os.getpid(), signal.Signals[script.get("kill_by", "SIGKILL")])
            self._step(step, steps)
            self._checkpoint(step)
            if script.get("offline_after") == step:
                while self.acknowledged < len(self.events):
                    await asyncio.sleep(0.005)
                self.offline = True
            await asyncio.sleep(script.get("delay", 0))
        self._report()
        if self.stop in {"", "finished_early"}:
            self._artifacts()
        self._emit(outcome=self._outcome())

    def _report(self) -> None:
        for each in self.script.get("evaluations", ()):
            self._emit(event_pb2.JobEvent(eval_metrics=json_format.ParseDict(each, event_pb2.EvalMetrics())))
        for each in self.script.get("samples", ()):
            self._emit(event_pb2.JobEvent(sample=json_format.ParseDict(each, event_pb2.Sample())))

    def _step(self, step: int, steps: int) -> None:
        losses = self.script.get("loss")
        metrics = event_pb2.StepMetrics(
            step=step,
            total_steps=steps,
            loss=losses[step - 1] if losses else 4 / step,
            learning_rate=1e-3,
            epoch=step / steps,
            processed_tokens=100 * step,
            step_seconds=0.5,
            tokens_per_second=200,
        )
        if cost := self.script.get("cost"):
            metrics.cost_so_far.currency_code, metrics.cost_so_far.nanos = "EUR", round(step * cost * 1e9)
        self._emit(event_pb2.JobEvent(step_metrics=metrics, message=f"step {step}"))
        self._evaluate(step, steps)

    def _evaluate(self, step: int, steps: int) -> None:
        losses, spec = self.script.get("losses"), self.task.train.spec
        if losses and (step == steps or step % (spec.evaluation.every_steps or steps) == 0):
            loss = losses[str(spec.lora.rank)] + 1 / step
            metrics = event_pb2.EvalMetrics(step=step, loss=loss, examples=20, loss_standard_error=0.05)
            self._emit(event_pb2.JobEvent(eval_metrics=metrics))

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

    def _checkpoint(self, step: int) -> None:
        if step not in self.script.get("checkpoints", ()):
            return
        parent = Path(self.task.folders.checkpoint_dir)
        folder = weight_files.checkpoint(parent, step)
        for old in sorted(parent.glob("step-*"))[:-2]:
            shutil.rmtree(old)
        content = (folder / "manifest.json").read_bytes()
        first = step == self.script["checkpoints"][0]
        if first:
            metrics = event_pb2.EvalMetrics(step=step, loss=0.5, exact_match=0.25)
            self._emit(event_pb2.JobEvent(eval_metrics=metrics))
        saved = event_pb2.CheckpointSaved(
            step=step, size_bytes=7, sha256=hashlib.sha256(content).hexdigest(), best=first
        )
        self._emit(event_pb2.JobEvent(checkpoint_saved=saved))

    def _artifacts(self) -> None:
        if self.script.get("adapter"):
            folder = weight_files.peft_adapter(Path(self.task.folders.artifact_dir) / "adapter")
            files = [
                artifact_pb2.ArtifactFile(path=file.name, size_bytes=file.stat().st_size)
                for file in sorted(folder.iterdir())
            ]
            made = artifact_pb2.Artifact(
                name=f"{self.task.job}/artifacts/adapter",
                kind=artifact_pb2.ARTIFACT_KIND_ADAPTER,
                sha256="a" * 64,
                files=files,
                lineage=self.task.lineage,
            )
            made.base.hub_id = "acme/tiny"
            for dataset in made.lineage.datasets:
                dataset.sha256 = hashlib.sha256(Path(self.task.dataset_file).read_bytes()).hexdigest()
            self._emit(event_pb2.JobEvent(artifact_ready=event_pb2.ArtifactReady(artifact=made)))
        if self.script.get("artifact"):
            self._artifact("adapter", artifact_pb2.ARTIFACT_KIND_ADAPTER, "weights.bin", bytes(range(256)) * 4096)
        if self.script.get("weights"):
            self._adapter()
        if fields := self.script.get("evaluation"):
            (Path(self.task.folders.work_dir) / "task.binpb").write_bytes(self.task.SerializeToString())
            report = evaluation_pb2.EvaluationReport(**fields)
            self._emit(event_pb2.JobEvent(kind=event_pb2.EVENT_KIND_EVALUATION_REPORT, evaluation_report=report))
        if fields := self.script.get("export"):
            (Path(self.task.folders.work_dir) / "task.binpb").write_bytes(self.task.SerializeToString())
            report = export_pb2.ExportReport(**fields)
            self._emit(event_pb2.JobEvent(kind=event_pb2.EVENT_KIND_EXPORT_REPORT, export_report=report))
        if rows := self.script.get("preview"):
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self._artifact("preview", artifact_pb2.ARTIFACT_KIND_REPORT, "rows.jsonl", content)

    def _adapter(self) -> None:
        """A LoRA adapter of one tensor of zeros."""
        folder = Path(self.task.folders.artifact_dir) / "adapter"
        folder.mkdir()
        header = json.dumps({"q_proj.lora_A.weight": {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}})
        contents = {
            "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2, "base_model_name_or_path": "acme/tiny"}),
            "adapter_model.safetensors": len(header).to_bytes(8, "little").decode() + header + "\0" * 48,
        }
        artifact = artifact_pb2.Artifact(
            name=f"{self.task.job}/artifacts/adapter", kind=artifact_pb2.ARTIFACT_KIND_ADAPTER
        )
        for path, content in contents.items():
            (folder / path).write_bytes(content.encode())
            sha256 = hashlib.sha256(content.encode()).hexdigest()
            artifact.files.add(path=path, size_bytes=len(content), sha256=sha256)
        artifact.base.hub_id = "acme/tiny"
        (folder / "finetree.json").write_text(json_format.MessageToJson(artifact))
        self._emit(event_pb2.JobEvent(artifact_ready=event_pb2.ArtifactReady(artifact=artifact)))

    def _artifact(self, name: str, kind: int, path: str, content: bytes) -> None:
        folder = Path(self.task.folders.artifact_dir) / name
        folder.mkdir()
        (folder / path).write_bytes(content)
        file = artifact_pb2.ArtifactFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        artifact = artifact_pb2.Artifact(name=f"{self.task.job}/artifacts/{name}", kind=kind, files=[file])
        self._emit(event_pb2.JobEvent(artifact_ready=event_pb2.ArtifactReady(artifact=artifact)))

    def _outcome(self) -> worker_pb2.TaskOutcome:
        wanted = self.stop or self.script.get("outcome", "succeeded")
        if wanted == "failed" and self.task.attempt > self.script.get("failing_attempts", 100):
            wanted = "succeeded"
        if wanted == "interrupted_once":
            wanted = "interrupted" if self.task.attempt == 1 else "succeeded"
        outcome = worker_pb2.TaskOutcome(kind=OUTCOMES[wanted])
        if summary := self.script.get("summary"):
            outcome.summary.MergeFrom(event_pb2.RunSummary(**summary))
        if wanted == "failed":
            outcome.error.CopyFrom(status_pb2.Status(code=3, message="The loss was not finite."))
            info = error_details_pb2.ErrorInfo(
                reason=self.script.get("reason", "DIVERGED"),
                domain="finetree",
                metadata={"remedy": "Lower the learning rate."},
            )
            outcome.error.details.add().Pack(info)
            outcome.failure_category = self.script.get("category", job_pb2.FAILURE_CATEGORY_USER)
        return outcome


LONGEST_LIFE = 150
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


if __name__ == "__main__":
    main()
