# SPDX-License-Identifier: Apache-2.0
"""From a checked request to the job that the trainer is asked for: the recommender's recipe, or the request's own."""

from __future__ import annotations

from typing import Any

import finetree
from finetree import InvalidArgument
from finetree.errors import InvalidSpec
from finetree.spec import kept_sources, message_from_dict, recommendation_of
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, dataset_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_data_pb2
from google.protobuf.message import Message

from finetree_console.openai.errors import refusal
from finetree_console.openai.jobs.object import MODEL, MULTIPLIER, metadata_parts
from finetree_console.openai.jobs.request import OWN, CreateRequest
from finetree_console.openai.models import base_models, model_source

RATE_SECONDS = 30.0
"""Longest wait for the trainer to measure its processor, which decides what a recipe takes there."""
USUAL_MICRO_BATCH = 4
"""Rows of a forward pass where nobody says it (Training.micro_batch_size)."""


async def template_of(client: finetree.AsyncClient, asked: CreateRequest) -> job_pb2.JobTemplate:
    """Build the job of a request; the recommender is asked unless the request names a method.

    Raises:
        FinetreeError: a file or model that is not there, a field that is wrong, or no method that trains.
    """
    own = _message(run_spec_pb2.RunSpec, asked.spec, OWN)
    own.model.CopyFrom(model_source(asked.model, await base_models(client)))
    training = await _dataset(client, asked.training, "training_file")
    _name(own.dataset, training)
    held_out = None
    if asked.validation is not None:
        held_out = await _dataset(client, asked.validation, "validation_file")
        _name(own.evaluation.dataset, held_out)
    if own.WhichOneof("method") is None:
        task = await _recommended(client, asked, own, training, held_out)
    elif asked.recommend:
        text = f"{OWN}.recommend: a method is given, so that nothing is left to recommend"
        raise refusal(f"{OWN}.recommend", text)
    else:
        task = job_pb2.TrainTask(spec=own)
    recommended = run_spec_pb2.RunSpec()
    recommended.CopyFrom(task.spec)
    _set_hyperparameters(task.spec, asked)
    template = _template(asked, task)
    if asked.learning_rate_multiplier is not None:
        await _multiply_learning_rate(client, template, asked.learning_rate_multiplier)
    # The recommender's reasons are left out for values that the request has replaced.
    kept = kept_sources(template.train.setting_sources, recommended, template.train.spec)
    del template.train.setting_sources[:]
    template.train.setting_sources.extend(kept)
    return template


async def _dataset(client: finetree.AsyncClient, uid: str, param: str) -> dataset_pb2.Dataset:
    try:
        return await client.get_dataset(uid)
    except finetree.NotFound as error:
        raise refusal(param, f"{param}: there is no file 'file-{uid}'", "FILE_NOT_FOUND", status=404) from error


def _name(source: training_data_pb2.DatasetSource, dataset: dataset_pb2.Dataset) -> None:
    """Name a dataset; how it is read comes from the request where that says something, else from the dataset."""
    source.name = dataset.name
    if dataset.HasField("reading") and not source.HasField("reading"):
        source.reading.CopyFrom(dataset.reading)


async def _recommended(
    client: finetree.AsyncClient,
    asked: CreateRequest,
    own: run_spec_pb2.RunSpec,
    training: dataset_pb2.Dataset,
    held_out: dataset_pb2.Dataset | None,
) -> job_pb2.TrainTask:
    """Ask the recommender, and put what the request says over its recipe."""
    request = recommendation_pb2.RecommendRequest(
        model=own.model,
        dataset=own.dataset,
        dataset_profile=training.profile if training.HasField("profile") else None,
    )
    if held_out is not None:
        request.evaluation.CopyFrom(own.evaluation)
        if held_out.HasField("profile"):
            request.evaluation_profile.CopyFrom(held_out.profile)
    if own.HasField("hardware"):
        request.hardware.CopyFrom(own.hardware)
    else:
        hardware, rates = _this_machine(await client.capacity(wait_for_rate=RATE_SECONDS))
        request.hardware.CopyFrom(hardware)
        if rates is not None:
            request.matrix_rates.CopyFrom(rates)
    try:
        words: Any = asked.recommend
        answer = await client.recommend(request, **words)
    except InvalidArgument as error:
        named = next((each.field for each in error.violations if each.field in asked.recommend), "")
        if named:
            raise refusal(f"{OWN}.recommend.{named}", error.message, error.reason) from error
        raise
    if answer.spec.WhichOneof("method") is None:
        raise _nothing_trains(answer)
    spec = run_spec_pb2.RunSpec()
    spec.CopyFrom(answer.spec)
    spec.MergeFrom(own)
    # What the request states is its own, also where the recommender would have chosen the same.
    sources = [each for each in answer.setting_sources if not _states(own, each.field_path)]
    return job_pb2.TrainTask(spec=spec, setting_sources=sources, recommendation=recommendation_of(answer))


def _this_machine(
    capacity: capacity_pb2.GetCapacityResponse,
) -> tuple[hardware_pb2.Hardware, hardware_pb2.MatrixRates | None]:
    """The device that a job would take: a GPU if there is one, else a processor with its measured rates."""
    devices = [(device, node) for node in capacity.nodes for device in node.devices]
    if not devices:
        raise refusal("", "the trainer has no device to train on", "NO_SUCH_DEVICE")
    device, node = min(devices, key=lambda pair: pair[0].hardware.WhichOneof("device") == "cpu")
    measured = device.hardware.WhichOneof("device") == "cpu" and node.HasField("matrix_rates")
    return device.hardware, node.matrix_rates if measured else None


def _nothing_trains(answer: recommendation_pb2.RecommendResponse) -> finetree.FinetreeError:
    remarks = [caution.message for caution in answer.cautions[:1]] + [way.message for way in answer.ways_out[:1]]
    why = "; ".join(text.rstrip(".") for text in (answer.verdict.headline, *remarks) if text)
    return refusal("model", f"no method trains this model here: {why}", "NO_METHOD_TRAINS")


def _set_hyperparameters(spec: run_spec_pb2.RunSpec, asked: CreateRequest) -> None:
    training = spec.training
    if asked.n_epochs is not None:
        training.epochs = asked.n_epochs
    if asked.seed is not None:
        training.seed = asked.seed
    if asked.batch_size is not None:
        training.effective_batch_size = asked.batch_size
        micro = training.micro_batch_size if training.HasField("micro_batch_size") else USUAL_MICRO_BATCH
        if micro > asked.batch_size:
            training.micro_batch_size = asked.batch_size


def _template(asked: CreateRequest, task: job_pb2.TrainTask) -> job_pb2.JobTemplate:
    labels, pairs = metadata_parts(asked.metadata)
    template = job_pb2.JobTemplate(
        display_name=asked.suffix,
        train=task,
        limits=None if asked.limits is None else _message(job_pb2.JobLimits, asked.limits, f"{OWN}.limits"),
        labels={**asked.labels, **labels},
        annotations={MODEL: asked.model, **pairs},
    )
    if asked.learning_rate_multiplier is not None:
        template.annotations[MULTIPLIER] = repr(asked.learning_rate_multiplier)
    return template


async def _multiply_learning_rate(
    client: finetree.AsyncClient, template: job_pb2.JobTemplate, multiplier: float
) -> None:
    """Multiply the learning rate of the recipe; that of the method where the recipe leaves it open."""
    training = template.train.spec.training
    if not training.HasField("learning_rate"):
        resolved = (await client.validate_job(template)).train.spec.training
        if not resolved.HasField("learning_rate"):
            text = f"nothing to multiply: give a learning rate in {OWN}.training.learning_rate"
            raise refusal("hyperparameters.learning_rate_multiplier", text)
        training.learning_rate = resolved.learning_rate
    training.learning_rate *= multiplier


def _states(spec: Any, path: str) -> bool:
    """Tell whether a spec states the field at a path."""
    *parents, last = path.split(".")
    for name in parents:
        if not isinstance(spec, Message) or name not in spec.DESCRIPTOR.fields_by_name:
            return False
        spec = getattr(spec, name)
    field = spec.DESCRIPTOR.fields_by_name.get(last) if isinstance(spec, Message) else None
    if field is None:
        return False
    return bool(spec.HasField(last) if field.has_presence else getattr(spec, last))


def _message(cls: Any, data: Any, prefix: str) -> Any:
    try:
        return message_from_dict(cls, data, prefix=prefix)
    except InvalidSpec as error:
        raise refusal(error.path or prefix, error.message, "INVALID_REQUEST") from error
