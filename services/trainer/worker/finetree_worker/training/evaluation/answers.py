# SPDX-License-Identifier: Apache-2.0
"""The artifact of an evaluation: the report, and what each model answered to each row."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import evaluation_pb2
from google.protobuf import json_format

from finetree_worker.tokenize.rows import Row
from finetree_worker.training.evaluation.metrics import (
    CHOICE_ACCURACY,
    Expected,
    RowScore,
    best_choice,
    exact_match,
    token_f1,
)
from finetree_worker.training.evaluation.report import Measured, shortened

REPORT, ANSWERS = "report.json", "answers.jsonl"
"""Names of the artifact's files."""


def write(
    folder: Path,
    report: evaluation_pb2.EvaluationReport,
    *,
    rows: Sequence[Row],
    expected: Sequence[Expected],
    models: Sequence[Measured],
) -> None:
    """Write the artifact's files into `folder`. Raises OSError."""
    text = json_format.MessageToJson(report, preserving_proto_field_name=True, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    with (folder / ANSWERS).open("w", encoding="utf-8") as stream:
        for place, (row, right) in enumerate(zip(rows, expected, strict=True)):
            line: dict[str, Any] = {"row": row.number, "prompt": _prompt(row), "expected": right.text}
            if row.choices:
                line |= {"choices": row.choices, "expected_choice": right.choice}
            line["models"] = {model.label: _answered(model.scores[place], right) for model in models}
            stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _answered(score: RowScore, right: Expected) -> dict[str, Any]:
    found: dict[str, Any] = {
        "nats": _finite(score.nats),
        "learned_tokens": score.tokens,
        "predicted_tokens": score.correct,
    }
    if score.answer is not None:
        found |= {
            "answer": score.answer,
            "exact_match": exact_match(score.answer, right.text),
            "f1": token_f1(score.answer, right.text),
        }
    if score.choices:
        found["choice"] = best_choice(score.choices, CHOICE_ACCURACY)
        found["choices"] = [
            {"log_likelihood": _finite(one.log_likelihood), "tokens": one.tokens, "characters": one.characters}
            for one in score.choices
        ]
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _prompt(row: Row) -> str:
    """Return the last turn before the answer; of plain text, nothing."""
    return row.messages[-2].content if len(row.messages) > 1 else ""


def samples(
    rows: Sequence[Row], expected: Sequence[Expected], models: Sequence[Measured], count: int
) -> Iterator[evaluation_pb2.EvaluationSample]:
    """Yield rows with all answers, spread over the file: rows often come sorted by kind."""
    asked = [i for i, right in enumerate(expected) if right.text]
    shown = min(count, len(asked))
    for i in range(shown):
        place = asked[i * len(asked) // shown]
        found = [(model.label, _shown(rows[place], model.scores[place], expected[place])) for model in models]
        told = [(label, answer) for label, answer in found if answer is not None]
        if told:
            yield evaluation_pb2.EvaluationSample(
                row=rows[place].number,
                prompt=shortened(_prompt(rows[place])),
                expected=shortened(expected[place].text),
                answers=[
                    evaluation_pb2.EvaluatedAnswer(label=label, text=shortened(text), correct=correct)
                    for label, (text, correct) in told
                ],
            )


def _shown(row: Row, score: RowScore, right: Expected) -> tuple[str, bool] | None:
    """Return an answer and whether it is right: the generated one, else the most likely choice."""
    if score.answer is not None:
        return score.answer, exact_match(score.answer, right.text)
    if score.choices:
        best = best_choice(score.choices, CHOICE_ACCURACY)
        return row.choices[best], best == right.choice
    return None
