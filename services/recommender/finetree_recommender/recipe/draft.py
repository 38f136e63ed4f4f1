# SPDX-License-Identifier: Apache-2.0
"""Draft of a recipe by the pack's rules, before defaults: a RunSpec, and the rule of each value."""

from dataclasses import replace

from finetree_api.types.v1 import model_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec import model_names
from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH, rows_within
from finetree_runtime.runspec.number_formats import cpu_precision
from finetree_runtime.runspec.resolve import steps_of

from finetree_recommender.estimator.values import Model
from finetree_recommender.method import Method
from finetree_recommender.recipe.tables import Draft, Reading, apply
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.rule_pack.answers import UNKNOWN
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.recipe import BatchRules, BatchStart, Computed

PRECISION = "precision"
EPOCHS, SEQUENCE = "training.epochs", "training.sequence_length"
BATCH, MICRO_BATCH = "training.effective_batch_size", "training.micro_batch_size"


def draft(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None) -> Draft:
    """Draft a method's recipe for a request; `parameters` are those of the base model.

    Tables come first that choose epochs among others, then lengths and batches, which with the epochs make the number
    of optimizer steps, then the tables that read that number.
    """
    reading = Reading(
        method=method,
        answers=inputs.answers,
        profile="EVIDENCE" if inputs.evidence_profile else "PLAYBOOK",
        device=device_of(inputs, method),
        parameters=parameters,
        examples=inputs.examples,
        divided=inputs.divided,
    )
    drawn = Draft(_named_spec(inputs), {})
    getattr(drawn.spec, method.field).SetInParent()
    apply(drawn, pack, reading, steps=None, late=False)
    apply(drawn, pack, reading, steps=_set_sizes(drawn, pack, inputs, reading=reading), late=True)
    return drawn


def sequence_length(pack: Pack, inputs: Inputs) -> tuple[int, Computed]:
    """Tokens of a sequence, and the rule: the length that rows need, at most the longest sequence of the model."""
    rules, suggested = pack.rules.sequence, inputs.suggested_length
    longest = inputs.model.longest if inputs.model is not None else 0
    value, rule = (suggested, rules.p99) if suggested else (UNKNOWN_SEQUENCE_LENGTH, rules.unknown)
    return (longest, rules.model) if 0 < longest < value else (value, rule)


def most_rows(pack: Pack, tokens: int) -> int:
    """Most rows of so many tokens that a GPU computes at once: a power of two."""
    return rows_within(pack.rules.batch.micro_tokens.value, tokens)


def device_of(inputs: Inputs, method: Method) -> str:
    """Kind of device and precision that a method trains in: the recipe input `device`."""
    if inputs.on_cpu:
        precision: object = cpu_precision(inputs.matrix_rates, method=method.field)
        return "cpu_fp32" if precision == training_pb2.PRECISION_FP32 else "cpu_bf16"
    native = inputs.native_bf16
    return UNKNOWN if native is None else ("gpu_bf16" if native else "gpu_no_bf16")


def _named_spec(inputs: Inputs) -> run_spec_pb2.RunSpec:
    """Copy the settings that the request states."""
    request = inputs.request
    spec = run_spec_pb2.RunSpec()
    for name in ("model", "dataset", "ownership", "evaluation"):
        if request.HasField(name):
            getattr(spec, name).CopyFrom(getattr(request, name))
    if inputs.model is not None and request.model.WhichOneof("source") == "name":
        spec.model.CopyFrom(_listed(inputs.model, request.model.name))
    if inputs.hardware_known:
        spec.hardware.CopyFrom(inputs.hardware)
    if not request.HasField("dataset") and inputs.profile is not None:
        spec.dataset.profile.CopyFrom(inputs.profile)
    return spec


def _listed(model: Model, name: str) -> model_pb2.ModelSource:
    """Name a model as the catalog or the hub does: the trainer need not know spellings as "Qwen 2.5 7B Instruct"."""
    found = model_names.meant(model.names, name)
    if "/" in found:
        return model_pb2.ModelSource(hub=model_pb2.HubModel(id=found))
    return model_pb2.ModelSource(name=found)


def _set_sizes(drawn: Draft, pack: Pack, inputs: Inputs, *, reading: Reading) -> int | None:
    """Set lengths and batches, and return the optimizer steps; None where the number of rows is unknown."""
    rules, kind = pack.rules.batch, reading.answers.task_domain
    start = next(rule for rule in rules.start if rule.applies(reading.method, kind, reading.examples))
    batch, steps = start.value, None
    if reading.examples is not None:
        batch, steps = _enough_steps(rules, start.value, reading.examples, epochs=drawn.number(EPOCHS) or 0.0)
    tokens, length_rule = sequence_length(pack, inputs)
    drawn.set(SEQUENCE, tokens, length_rule)
    drawn.set(BATCH, batch, start if batch == start.value else _halved(rules, start))
    if inputs.on_cpu:
        drawn.set(MICRO_BATCH, batch, rules.micro_cpu)
    else:
        share = max(1, batch // max(1, inputs.hardware.count))
        drawn.set(MICRO_BATCH, min(share, most_rows(pack, tokens)), rules.micro_tokens)
    return steps


def _enough_steps(rules: BatchRules, batch: int, rows: int, *, epochs: float) -> tuple[int, int]:
    """Halve a batch until the rules' minimum of optimizer steps is reached; return the batch and the steps."""
    while (steps := steps_of(rows, batch=batch, epochs=epochs)) < rules.minimum_steps.value and batch > 1:
        batch //= 2
    return batch, steps


def _halved(rules: BatchRules, start: BatchStart) -> BatchStart:
    """Rule of a batch that was halved, with a range from one row."""
    most = next(rule.range[-1] for rule in rules.start if rule.general and start.methods[0] in rule.methods)
    least = rules.minimum_steps
    return replace(start, id=least.id, reason=least.reason, source=least.source, range=(1, most))
