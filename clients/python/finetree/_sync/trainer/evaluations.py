# SPDX-License-Identifier: Apache-2.0
"""Calls of the trainer about evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from finetree_api.trainer.v1 import evaluation_pb2

from finetree._shared import rpcs, trainer_requests
from finetree._shared.retry import deadline_after, within
from finetree._shared.trainer import evaluation_requests
from finetree._shared.trainer.evaluation_requests import SubjectLike
from finetree._shared.trainer_requests import DatasetLike, JobFields, ModelLike
from finetree._sync.job import Job
from finetree._sync.transport import Transport
from finetree.errors import NotFound


class EvaluationCalls:
    """Evaluations: trained weights beside their base on held-out rows."""

    _transport: Transport

    def evaluate(
        self,
        *subjects: SubjectLike,
        dataset: DatasetLike,
        model: ModelLike | None = None,
        metrics: Sequence[str | int] = (),
        decide_by: str | int = 0,
        examples: int | None = None,
        examples_from: DatasetLike | None = None,
        max_new_tokens: int | None = None,
        max_rows: int | None = None,
        samples: int | None = None,
        seed: int | None = None,
        resamples: int | None = None,
        sequence_length: int | None = None,
        precision: str | int = 0,
        quantization: str | int = 0,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[JobFields],
    ) -> Job:
        """Create a job that measures trained weights beside their base; `evaluation_report` waits for what it finds.

        Args:
            subjects: up to 8 of one base: names of jobs (their trained weights), artifacts or checkpoints; or
                {"path": …}, a folder under a model root of the trainer; with {"weights": …, "label": …} under a label.
            dataset: held-out rows: name or short id of a dataset, or a DatasetSource.
            model: base model, where the weights do not say which; as in `prepare`.
            metrics: such as "loss", "f1", "exact_match"; empty means all that the rows allow.
            decide_by: metric that the conclusions rest on; 0 means choice accuracy, F1 or loss, as the rows are.
            examples: examples in the prompt of the base; 0 means it is not asked so, None means 4 where training rows
                are known.
            examples_from: rows that examples are taken from; None means a subject's training rows.
            max_new_tokens: most tokens of an answer; None means 64.
            max_rows: most rows, chosen by content and seed; None means all.
            samples: rows that the report shows with all answers; None means 5.
            seed: of the bootstrap and of what is chosen.
            resamples: of the bootstrap; None means 10,000.
            sequence_length: longest row in tokens; None means the model's longest.
            precision: such as "bf16"; 0 means that of the subjects' runs.
            quantization: such as "nf4"; 0 means as the subjects were trained.
            timeout: as in `create_job`.
            request_id: as in `create_job`.
            fields: as in `create_job`.

        Raises:
            InvalidArgument: SUBJECT_REPEATED, WRONG_BASE, BASE_UNKNOWN, WEIGHTS_UNREADABLE, NO_CHOICES, or another
                field is wrong.
            NotFound: ARTIFACT_NOT_FOUND: a job has made no weights; CHECKPOINT_NOT_FOUND, WEIGHTS_NOT_FOUND.
            FinetreeError: what `create_job` raises.
        """
        found = [self._subject(subject, timeout) for subject in subjects]
        task = evaluation_requests.evaluate_task(
            found,
            dataset,
            model=model,
            metrics=metrics,
            decide_by=decide_by,
            examples=examples,
            examples_from=examples_from,
            max_new_tokens=max_new_tokens,
            max_rows=max_rows,
            samples=samples,
            seed=seed,
            resamples=resamples,
            sequence_length=sequence_length,
            precision=precision,
            quantization=quantization,
        )
        template = trainer_requests.job_template(task, **fields)
        request = trainer_requests.create_job(self._transport.options.project, template, request_id)
        created = self._transport.unary(rpcs.CREATE_JOB, request, timeout=timeout, request_id=request.request_id)
        return Job(self._transport, created.job.name, snapshot=created.job, request_id=request.request_id)

    def evaluation_report(self, job: str, *, timeout: float | None = None) -> evaluation_pb2.EvaluationReport:
        """Wait until an evaluation has ended, and get its report.

        Args:
            job: resource name or short id of the job.
            timeout: seconds; None means for ever. The job continues when it passes.

        Raises:
            FinetreeTimeout: it has not ended in time.
            JobFailed: it ended FAILED or CANCELLED.
            NotFound: JOB_NOT_FOUND; REPORT_NOT_FOUND: the job is no evaluation, or its events are no longer kept.
        """
        deadline = deadline_after(timeout)
        handle = Job(self._transport, trainer_requests.full_name(self._transport.options.project, "jobs", job))
        handle.wait(timeout=timeout, check=True)
        left = within(deadline, self._transport.options.timeout or rpcs.QUICK)
        found = handle.list_events(last=1, kinds=("evaluation_report",), timeout=left)
        if not found:
            text = f"job {handle.name} has no report of an evaluation among its events; its artifacts may have one"
            raise NotFound(text, reason="REPORT_NOT_FOUND")
        return found[0].evaluation_report

    def _subject(self, subject: SubjectLike, timeout: float | None) -> evaluation_pb2.EvaluationSubject:
        """Make a subject; of a job, the weights that it made."""
        job = evaluation_requests.job_of(self._transport.options.project, subject)
        if not job:
            return evaluation_requests.subject_of(subject)
        artifacts = Job(self._transport, job).artifacts(timeout=timeout)
        return evaluation_requests.subject_of(subject, evaluation_requests.weights_artifact(job, artifacts))
