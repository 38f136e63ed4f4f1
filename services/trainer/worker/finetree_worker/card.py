# SPDX-License-Identifier: Apache-2.0
"""The model card of an artifact: README.md with the metadata that a hub reads, from what the run itself has measured.

It holds numbers, settings and public names: never a row of the data, a folder, a host or a time. Two runs with equal
weights have equal cards, a resumed one too.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from finetree_api.trainer.v1 import artifact_pb2, event_pb2
from finetree_api.types.v1 import training_data_pb2
from google.protobuf import json_format
from huggingface_hub import EvalResult, ModelCardData

from finetree_worker.events.envelope import Level, Payload, Reporter
from finetree_worker.plan import BaseModel, Plan

NAME = "README.md"
"""File of the card in an artifact's folder."""
_BEFORE = "before-training.json"
"""Keeps the evaluation of the base for later attempts, beside their checkpoints."""
Metric = Literal["loss", "perplexity", "token_accuracy", "exact_match"]
_HUB_ID = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_METRICS: tuple[Metric, ...] = ("loss", "perplexity", "token_accuracy", "exact_match")
_METRIC_TYPES = {"loss": "loss", "perplexity": "perplexity", "token_accuracy": "accuracy", "exact_match": "exact_match"}
_COUNTED = (
    ("truncated", "cut to the sequence length"),
    ("without_target", "left out, nothing left to learn"),
    ("skipped", "left out, not usable"),
    ("duplicates", "repeat an earlier row"),
    ("leaked", "are training rows too"),
)
"""Groups of rows in a report, and what became of them."""
_OWN_TEXT = frozenset({"init_text"})
"""Settings that are the user's own text."""
_LONGEST_LIST = 24


class Record:
    """Passes payloads on to a reporter, and keeps those that a card tells of.

    `folder` is where the job's attempts keep their checkpoints: the base is evaluated by the first of them alone.
    """

    def __init__(self, reporter: Reporter, folder: Path, *, keeps: bool = True) -> None:
        """`keeps`: whether it writes the evaluation of the base; one of several processes does."""
        self._reporter, self._file, self._keeps = reporter, folder / _BEFORE, keeps
        self.reports: dict[int, event_pb2.DatasetReport] = {}
        """Reports on the rows by split, which the run fills in: not all of them are events."""
        self.after: event_pb2.EvalMetrics | None = None
        """The newest evaluation of trained weights; None before the first."""
        self._before: event_pb2.EvalMetrics | None = None

    def emit(self, payload: Payload, /, *, message: str = "", level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED) -> None:
        """Keep and report a payload."""
        if isinstance(payload, event_pb2.EvalMetrics) and payload.step:
            self.after = payload
        elif isinstance(payload, event_pb2.EvalMetrics):
            self._before = payload
            if not self._keeps:
                return
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                draft = self._file.with_name(f".{self._file.name}.tmp")
                draft.write_text(json_format.MessageToJson(payload), encoding="utf-8")
                draft.replace(self._file)
        self._reporter.emit(payload, message=message, level=level)

    @property
    def before(self) -> event_pb2.EvalMetrics | None:
        """The evaluation of the base, by whichever attempt made it; None where none has."""
        if self._before is None:
            with suppress(OSError, json_format.ParseError):
                text = self._file.read_text(encoding="utf-8")
                self._before = json_format.Parse(text, event_pb2.EvalMetrics(), ignore_unknown_fields=True)
        return self._before


@dataclass(frozen=True, slots=True)
class Card:
    """What a card tells; what is empty is left out."""

    title: str
    summary: str
    library: str
    """Library that loads it, as hubs name them: "peft", "transformers"."""
    base: BaseModel
    relation: str
    """How it comes from its base, as hubs name it: "adapter", "finetune", "merge", "quantized"."""
    load: tuple[tuple[str, str], ...]
    """Language, as Markdown names it, and code that loads it from its own folder."""
    notes: tuple[str, ...] = ()
    """What a user of it must know."""
    tags: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the base on the held-out rows, by name."""
    after: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    """Sections of an earlier card that stand in place of this one's, by heading."""
    export: Mapping[str, str] = field(default_factory=dict)
    """Of an export: what was written, and how it compares with what was trained."""
    held_out: str = ""
    """The held-out rows in a word, and their hash."""
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further metadata: hashes and digests."""


def of_run(plan: Plan, record: Record, base: BaseModel, versions: Mapping[str, str], *, data_sha256: str) -> Card:
    """Return the card of a run that has ended. `data_sha256` is the hash of its training file, empty where unknown."""
    method = plan.method
    name = method.title
    made = "A model" if method.artifact == artifact_pb2.ARTIFACT_KIND_MODEL else "An adapter"
    of = f" of {base.hub_id}" if base.hub_id else ""
    held = record.reports.get(training_data_pb2.SPLIT_EVALUATION)
    return Card(
        title=f"{base.hub_id.rpartition('/')[2] or 'A base model'}, fine-tuned with {name}",
        summary=f"{made}{of}, fine-tuned with {name} by finetree.",
        library=method.library,
        base=base,
        relation="finetune" if method.artifact == artifact_pb2.ARTIFACT_KIND_MODEL else "adapter",
        load=(("python", "\n".join(method.load_lines(_load_base(base), base.auto_class))),),
        notes=method.load_notes,
        tags=("finetree", method.name),
        data=dict(_data(record.reports, data_sha256)),
        recipe={"method": method.name, **dict(settings(asdict(method))), **dict(settings(asdict(plan.optimization)))},  # type: ignore[call-overload]  # every method is a dataclass
        before=_measured(record.before),
        after=_measured(record.after),
        held_out=f"{_rows(held)} held-out rows" if held is not None else "held-out rows",
        versions=versions,
        facts={"dataset_sha256": data_sha256, "plan_digest": plan.plan_digest, "base_fingerprint": base.fingerprint},
    )


def write(folder: Path, card: Card) -> None:
    """Write a card into an artifact's folder, over one that a library left there."""
    (folder / NAME).write_text(render(card), encoding="utf-8")


def render(card: Card) -> str:
    """Return a card as Markdown with its metadata in front."""
    sections = [
        f"---\n{_metadata(card).to_yaml()}\n---\n\n# {card.title}\n\n{card.summary}",
        "## Load it",
        *(f"```{language}\n{code}\n```" for language, code in card.load),
        *card.notes,
        _table("## Base", _base(card.base)),
        _table("## Export", card.export),
        card.kept.get("Data") or _table("## Data", card.data),
        card.kept.get("Evaluation") or _evaluation(card),
        card.kept.get("Recipe") or _table("## Recipe", card.recipe),
        _table("## Versions", card.versions),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(card: Card) -> ModelCardData:
    base = card.base.hub_id if _HUB_ID.fullmatch(card.base.hub_id) else None
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="finetree",
            dataset_name=card.held_out,
            metric_type=_METRIC_TYPES[name],
            metric_name=name.replace("_", " "),
            metric_value=value,
        )
        for name, value in card.after.items()
    ]
    facts = {name: value for name, value in card.facts.items() if value}
    return ModelCardData(
        base_model=base,
        base_model_relation=card.relation if base else None,
        library_name=card.library,
        license=card.base.license or None,
        pipeline_tag="text-generation",
        tags=list(card.tags),
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=card.title if results else None,
        eval_results=results or None,
        finetree=facts or None,
    )


def _load_base(base: BaseModel) -> str:
    """Return the Python call that loads the base: by its hub id at its commit where these are known."""
    if not _HUB_ID.fullmatch(base.hub_id):
        return f'{base.auto_class}.from_pretrained("FOLDER_OF_THE_BASE")'
    revision = f', revision="{base.revision}"' if _COMMIT.fullmatch(base.revision) else ""
    return f'{base.auto_class}.from_pretrained("{base.hub_id}"{revision})'


def _base(base: BaseModel) -> Iterator[tuple[str, str]]:
    yield "model", base.hub_id or "a model that is on no hub"
    yield "revision", base.revision
    yield "license", base.license or "not known: see the base model's own page"
    yield "fingerprint (SHA-256 of its configuration and weights)", base.fingerprint


def _data(reports: Mapping[int, event_pb2.DatasetReport], sha256: str) -> Iterator[tuple[str, str]]:
    yield "training file (SHA-256)", sha256
    for split, word in ((training_data_pb2.SPLIT_TRAIN, "training"), (training_data_pb2.SPLIT_EVALUATION, "held-out")):
        report = reports.get(split)
        if report is None:
            continue
        yield f"{word} rows", _rows(report)
        yield f"{word} tokens", f"{report.profile.total_tokens:,}"
        yield f"{word} tokens that are learned", f"{report.target_tokens:,}" if split == 1 else ""
        for name, text in _COUNTED:
            count = getattr(report, name).count
            yield f"{word} rows: {text}", f"{count:,}" if count else ""


def _rows(report: event_pb2.DatasetReport) -> str:
    return f"{report.profile.examples:,}"


def _measured(metrics: event_pb2.EvalMetrics | None) -> dict[str, float]:
    if metrics is None:
        return {}
    found = {name: getattr(metrics, name) for name in _METRICS if metrics.HasField(name)}
    return {name: round(value, 6) for name, value in found.items() if math.isfinite(value)}


def sections(text: str) -> dict[str, str]:
    """Return the sections of a rendered card by their headings, each with its own heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {heading: f"## {heading}\n\n{body.strip()}" for heading, body in zip(parts[::2], parts[1::2], strict=True)}


def settings(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings by name as text; what is unset, and the user's own texts, are left out."""
    for name, value in values.items():
        if value is None or value == () or name in _OWN_TEXT:
            continue
        if isinstance(value, Mapping):
            yield from settings(value)
        else:
            yield name.replace("_", " "), _text(value)


def _text(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        more = f" and {len(value) - _LONGEST_LIST} more" if len(value) > _LONGEST_LIST else ""
        return ", ".join(map(str, value[:_LONGEST_LIST])) + more
    return str(value)


def _evaluation(card: Card) -> str:
    if not card.after and not card.before:
        # Of what others trained, an export does not know what was held out.
        return "" if card.export else "## Evaluation\n\nNo rows were held out: nothing was measured."
    rows = [f"On {card.held_out}.", "", "| metric | base | after training |", "| --- | --- | --- |"]
    for name in (*card.after, *(name for name in card.before if name not in card.after)):
        values = (f"{side[name]:.4f}" if name in side else "not measured" for side in (card.before, card.after))
        rows.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} |")
    return "## Evaluation\n\n" + "\n".join(rows)


def _table(heading: str, rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Return a section with a table; empty where no row has a value."""
    lines = [f"| {_escaped(name)} | {_escaped(value)} |" for name, value in dict(rows).items() if value]
    return "\n".join([f"{heading}\n", "| | |", "| --- | --- |", *lines]) if lines else ""


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one cell of a table."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))
