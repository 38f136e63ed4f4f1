# SPDX-License-Identifier: Apache-2.0
"""The model card of an export: how the file compares with what was trained, and what that was trained on and how.

Data, evaluation and recipe are those of the trained artifact's own card, which lies beside its weights and is sealed
with them. A checkpoint has none: its recipe is then read from the spec of its run.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import yaml
from finetree_api.trainer.v1 import artifact_pb2, export_pb2
from finetree_api.types.v1 import run_spec_pb2, serving_pb2
from google.protobuf import json_format
from huggingface_hub import ModelCard

from finetree_worker import card
from finetree_worker.card import Card
from finetree_worker.methods.weights import Weights
from finetree_worker.plan import BaseModel
from finetree_worker.versions import library_versions

_LARGEST_CARD = 1 << 20
_KEPT = ("Data", "Evaluation", "Recipe")
_FACTS = ("dataset_sha256", "plan_digest")
_OF_TRAINING = "Of the trained weights, before they were exported."
_SOURCES = {
    export_pb2.PROMPT_SOURCE_REQUEST: "prompts of a dataset that was named",
    export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS: "prompts of the held-out rows",
    export_pb2.PROMPT_SOURCE_TRAINING_ROWS: "prompts of the training rows",
}


@dataclass(frozen=True, slots=True)
class _Trained:
    """What is known of the run that trained: sections of its card by heading, and hashes."""

    sections: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def of_export(base: BaseModel, weights: Weights, report: export_pb2.ExportReport, *, weight_type: str) -> Card:
    """Return the card of an export, from its report but for the hashes of files; `weight_type` is its number format."""
    form = artifact_pb2.ExportFormat.Name(report.format).removeprefix("EXPORT_FORMAT_").lower().replace("_", "-")
    name = weights.spec.WhichOneof("method") if weights.spec is not None else None
    what = "merged into its base and exported" if report.merged else "exported"
    made = f", fine-tuned with {name} by finetree," if name else ""
    in_python = serving_pb2.SERVING_TARGET_TRANSFORMERS
    trained = _trained(weights)
    asked = f"{report.prompts} {_SOURCES.get(report.prompt_source, 'prompts')}"
    return Card(
        title=f"{base.hub_id.rpartition('/')[2] or 'A base model'}, {what} as {form}",
        summary=f"{base.hub_id or 'A base model'}{made} {what} as {form} in {weight_type}.",
        library="transformers" if report.format == artifact_pb2.EXPORT_FORMAT_TRANSFORMERS else "gguf",
        base=base,
        relation="adapter" if report.format == artifact_pb2.EXPORT_FORMAT_GGUF_LORA else "finetune",
        load=tuple(
            ("python" if each.program == in_python else "sh", each.command.strip()) for each in report.load_commands
        ),
        tags=("finetree", *([name] if name else []), form),
        export={"merged into the base": "yes" if report.merged else "no", "weights": weight_type, **_compared(report)},
        kept=trained.sections,
        recipe=_recipe(weights.spec) if weights.spec is not None else {},
        after={"exact_match": round(report.exact_match_after, 6)} if report.HasField("exact_match_after") else {},
        held_out=asked,
        versions=library_versions(),
        facts={"base_fingerprint": base.fingerprint, **trained.facts},
    )


def _compared(report: export_pb2.ExportReport) -> dict[str, str]:
    """Return how the file compares with the trained model, as rows of a table."""
    found = {}
    for each in report.comparisons:
        if each.model == export_pb2.COMPARED_MODEL_TRAINED:
            found["largest difference of logits from the trained model"] = f"{each.largest_difference:.3g}"
            found["answers as the trained model gives them"] = f"{each.equal_answers} of {report.prompts}"
    if report.HasField("merge_difference"):
        found["of it, by merging alone"] = f"{report.merge_difference:.3g}"
    if report.HasField("exact_match_before"):
        found["exact match before and after"] = f"{report.exact_match_before:.4f} and {report.exact_match_after:.4f}"
    return found


def _trained(weights: Weights) -> _Trained:
    """Read the card of the artifact that is exported. Others' are left alone: nobody knows who wrote what there."""
    file = weights.folder / card.NAME
    if weights.spec is None or weights.checkpoint:
        return _Trained()
    with suppress(OSError, ValueError, TypeError, yaml.YAMLError):
        if file.stat().st_size > _LARGEST_CARD:
            return _Trained()
        text = file.read_text(encoding="utf-8")
        found = card.sections(text)
        kept = {heading: found[heading] for heading in _KEPT if heading in found}
        if "Evaluation" in kept:
            heading, _, measured = kept["Evaluation"].partition("\n\n")
            kept["Evaluation"] = f"{heading}\n\n{_OF_TRAINING} {measured}"
        noted = getattr(ModelCard(text).data, "finetree", None)
        noted = noted if isinstance(noted, dict) else {}
        return _Trained(kept, {name: str(noted[name]) for name in _FACTS if noted.get(name)})
    return _Trained()


def _recipe(spec: run_spec_pb2.RunSpec) -> dict[str, str]:
    """Return the settings of a run's method and training, as the card of its result would name them."""
    name = str(spec.WhichOneof("method") or "")
    parts = (getattr(spec, name), spec.training) if name else (spec.training,)
    found = {"method": name}
    for part in parts:
        values = json_format.MessageToDict(part, preserving_proto_field_name=True)
        found |= dict(
            card.settings({key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
        )
    return found
