# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about what jobs read: datasets, previews and base models."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import base_model_pb2, dataset_pb2, trainer_pb2_grpc
from finetree_runtime.errors import invalid_field
from finetree_runtime.ids import ResourceName, parse_name
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import caller_in, page_scope, parent_project, request_key
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.datasets.previews import DEFAULT_ROWS, MAX_ROWS, Previews
from finetree_trainer.models.base_models import BaseModels


@dataclass(frozen=True, kw_only=True, eq=False)
class DataRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about datasets, previews and base models; its fields do the work."""

    names: Names
    datasets: Datasets
    previews: Previews
    base_models: BaseModels
    tokens: PageTokens

    async def CreateDataset(self, request: dataset_pb2.CreateDatasetRequest, context_: Any) -> Any:
        """Start an upload."""
        dataset = await self.datasets.create(parent_project(request.parent), context.principal().name, request)
        context.bind(dataset=dataset.uid)
        return dataset_pb2.CreateDatasetResponse(dataset=dataset)

    async def WriteDataset(
        self, request_iterator: AsyncIterator[dataset_pb2.WriteDatasetRequest], context_: Any
    ) -> dataset_pb2.WriteDatasetResponse:
        """Receive the pieces of an upload."""
        pieces = aiter(request_iterator)
        first = await anext(pieces, None)
        if first is None or not first.name:
            raise invalid_field("name", "the first message must name the dataset")
        name = await self.names.dataset(first.name)
        context.bind(dataset=name.id)
        dataset = await self.datasets.write(name.id, _pieces(first, pieces), caller=caller_in(name.project))
        return dataset_pb2.WriteDatasetResponse(dataset=dataset)

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context_: Any) -> dataset_pb2.GetDatasetResponse:
        """Return a dataset."""
        name = await self.names.dataset(request.name)
        return dataset_pb2.GetDatasetResponse(dataset=await self.datasets.get(name.id))

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context_: Any
    ) -> dataset_pb2.ListDatasetsResponse:
        """List datasets, newest first."""
        project, size = parent_project(request.parent), page_size(request.page_size)
        scope = f"ListDatasets/{project}"
        before = self.tokens.read(scope, request.page_token) or ""
        found = await self.datasets.page(project, before=before, limit=size + 1)
        token = self.tokens.issue(scope, found[size - 1].uid) if len(found) > size else ""
        return dataset_pb2.ListDatasetsResponse(datasets=found[:size], next_page_token=token)

    async def DeleteDataset(
        self, request: dataset_pb2.DeleteDatasetRequest, context_: Any
    ) -> dataset_pb2.DeleteDatasetResponse:
        """Delete a dataset that no job needs."""
        name = parse_name(request.name, "datasets", project=context.principal().project)
        await self.datasets.delete(name.id, name.project, request_id=request.request_id)
        return dataset_pb2.DeleteDatasetResponse()

    async def PreviewDataset(
        self, request: dataset_pb2.PreviewDatasetRequest, context_: Any
    ) -> dataset_pb2.PreviewDatasetResponse:
        """Show rows as training sees them."""
        named = request.WhichOneof("source") == "dataset"
        names = self.names
        found = await (names.dataset(request.dataset, "dataset") if named else names.job(request.job, "job"))
        subject = found.id
        scope = page_scope("PreviewDataset", subject, request, "page_token", "page_size", "dataset", "job")
        # Later pages are of the first page's job, also when a newer one has succeeded meanwhile.
        job, _, offset = (self.tokens.read(scope, request.page_token) or "").partition(":")
        if named and not job:
            await self.datasets.get(subject)
            job = await self.previews.newest(subject)
        job = job or subject
        size = page_size(request.page_size, default=DEFAULT_ROWS, maximum=MAX_ROWS)
        rows, reached = await self.previews.page(job, request, offset=int(offset or 0), limit=size)
        token = self.tokens.issue(scope, f"{job}:{reached}") if reached else ""
        name = ResourceName(found.project, "jobs", job)
        return dataset_pb2.PreviewDatasetResponse(rows=rows, next_page_token=token, job=str(name))

    async def ListBaseModels(
        self, request: base_model_pb2.ListBaseModelsRequest, context_: Any
    ) -> base_model_pb2.ListBaseModelsResponse:
        """List the base models on this machine, by name."""
        size = page_size(request.page_size)
        after = self.tokens.read("ListBaseModels", request.page_token) or ""
        found = [model for model in await self.base_models.all() if model.name > after]
        token = self.tokens.issue("ListBaseModels", found[size - 1].name) if len(found) > size else ""
        return base_model_pb2.ListBaseModelsResponse(base_models=found[:size], next_page_token=token)

    async def GetBaseModel(
        self, request: base_model_pb2.GetBaseModelRequest, context_: Any
    ) -> base_model_pb2.GetBaseModelResponse:
        """Return a base model."""
        return base_model_pb2.GetBaseModelResponse(base_model=await self.base_models.get(request.name))

    async def DeleteBaseModel(
        self, request: base_model_pb2.DeleteBaseModelRequest, context_: Any
    ) -> base_model_pb2.DeleteBaseModelResponse:
        """Delete a base model that no job needs."""
        key = request_key(request, context.principal().project, "DeleteBaseModel")
        return base_model_pb2.DeleteBaseModelResponse(base_model=await self.base_models.delete(request.name, key))


async def _pieces(
    first: dataset_pb2.WriteDatasetRequest, rest: AsyncIterator[dataset_pb2.WriteDatasetRequest]
) -> AsyncIterator[tuple[int, bytes]]:
    if first.data:
        yield first.offset, first.data
    async for piece in rest:
        yield piece.offset, piece.data
