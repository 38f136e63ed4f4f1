# SPDX-License-Identifier: Apache-2.0
"""Rows as training would see them: those that the script of a PREPARE job has it keep."""

from __future__ import annotations

from collections.abc import Mapping

from finetree_api.trainer.v1 import dataset_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree.errors import FailedPrecondition, NotFound
from finetree.testing.requests import full_name, invalid, page
from finetree.testing.trainer.datasets import FakeDatasets
from finetree.testing.trainer.job import FakeJob

PAGE_BYTES = 1 << 20


class FakePreviews:
    """Previews of datasets."""

    def __init__(self, datasets: FakeDatasets) -> None:
        self._datasets = datasets

    def answer(
        self, request: dataset_pb2.PreviewDatasetRequest, jobs: Mapping[str, FakeJob]
    ) -> dataset_pb2.PreviewDatasetResponse:
        """List the kept rows that a request selects, in pages."""
        job, mark, inner = request.page_token.partition(":")
        if request.page_token and not mark:
            raise invalid(
                "page_token", "is not a token of this list: start again with an empty one", "PAGE_TOKEN_INVALID"
            )
        if request.HasField("dataset"):
            dataset = self._datasets.find(request.dataset, "dataset").name
            kept = [job for job in jobs.values() if self._keeps(job) and _reads(job, dataset)]
        else:
            name = full_name(request.job, "jobs", "job")
            if name not in jobs and not self._datasets.preview:
                raise NotFound(
                    f"job: no job {request.job!r}; list the jobs to see those that exist", reason="JOB_NOT_FOUND"
                )
            kept = [job for key, job in jobs.items() if key == name and self._keeps(job)]
        if not kept and not self._datasets.preview:
            text = "no job has read this dataset yet: `finetree data check` or prepare(), with the model to train, does"
            raise FailedPrecondition(text, reason="NO_PREVIEW")
        newest = next((each for each in kept if each.message.uid == job), kept[-1] if kept else None)
        rows = [
            each for each in (newest.course.preview if newest else self._datasets.preview) if _selected(each, request)
        ]
        asked = dataset_pb2.PreviewDatasetRequest()
        asked.CopyFrom(request)
        asked.page_token = inner
        count = _fitting(rows, asked.page_token, asked.page_size or 20)
        asked.page_size = count
        shown, token = page(rows, asked, key=lambda row: f"{row.split}/{row.row}")
        return dataset_pb2.PreviewDatasetResponse(
            rows=shown,
            next_page_token=f"{newest.message.uid if newest else ''}:{token}" if token else "",
            job=newest.message.name if newest else "",
        )

    def _keeps(self, job: FakeJob) -> bool:
        """Whether a job kept rows, and those of a dataset that is still there."""
        task = job.message.prepare
        succeeded = job.message.state == job_pb2.JOB_STATE_SUCCEEDED
        if not succeeded or not task.HasField("model") or not job.course.preview:
            return False
        return not task.dataset.name or full_name(task.dataset.name, "datasets") in self._datasets.names()


def _reads(job: FakeJob, dataset: str) -> bool:
    return full_name(job.message.prepare.dataset.name, "datasets") == dataset


def _selected(row: dataset_pb2.PreviewRow, request: dataset_pb2.PreviewDatasetRequest) -> bool:
    if request.split not in (training_data_pb2.SPLIT_UNSPECIFIED, row.split):
        return False
    finding = dataset_pb2.PreviewFilter.Name(request.filter).removeprefix("PREVIEW_FILTER_").lower()
    return not request.filter or bool(getattr(row, finding))


def _fitting(rows: list[dataset_pb2.PreviewRow], token: str, most: int) -> int:
    """How many rows of about one size a page holds."""
    largest = max((row.ByteSize() for row in rows), default=1) if not token or rows else 1
    return max(1, min(most, PAGE_BYTES // max(1, largest)))
