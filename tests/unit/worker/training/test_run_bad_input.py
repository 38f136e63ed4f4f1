# SPDX-License-Identifier: Apache-2.0
"""Bad input ends a run before anything is trained, with a reason, a remedy and nothing left behind."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_data.files import content
from finetree_worker.errors import TaskError
from finetree_worker.plan import Plan
from worker_harness import LORA, Recorder, run, tuned

GOOD = b'{"prompt": "p", "completion": "c"}\n'
LONG = b'{"prompt": "' + b"x" * (50 * 1024 * 1024) + b'", "completion": "c"}\n'


def file_of(data: Callable[[], bytes], name: str = "train.jsonl") -> Callable[[Plan, Path], Plan]:
    """The plan with another training file."""

    def change(plan: Plan, folder: Path) -> Plan:
        (folder / name).write_bytes(data())
        return replace(plan, data=replace(plan.data, train=folder / name))

    return change


def base_of(spoil: Callable[[Path], object]) -> Callable[[Plan, Path], Plan]:
    """The plan with a copy of the base that is spoilt."""

    def change(plan: Plan, folder: Path) -> Plan:
        copy = folder / "base"
        shutil.copytree(plan.base.folder, copy)
        spoil(copy)
        return replace(plan, base=replace(plan.base, folder=copy))

    return change


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lying_parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(2000)]}), stream, compression="none")
    return stream.getvalue().replace(b"row 1500", b"row \xff\xff\xff\xff")


LEFT_OUT = b"""{"Question": "How much?", "Answer": "51", "Body": "Each pack costs 76 dollars, and 25 less today."}
{"Question": "How many?", "Answer": "3", "Body": "Dan had 7 dollars left when he bought a bar for 4."}
"""

CASES: dict[str, tuple[Callable[[Plan, Path], Plan], str, str]] = {
    # What is changed, the reason, and the field.
    "no training data at all": (file_of(lambda: b"%PDF-1.7"), "UNSUPPORTED_FILE", "dataset"),
    "neither JSON nor a table": (file_of(lambda: b"Dear reader,\n"), "MALFORMED_ROW", "dataset[1]"),
    "mixed formats": (file_of(lambda: GOOD + b'{"text": "t"}\n'), "MIXED_FORMATS", "dataset[2]"),
    "Latin-1": (file_of(lambda: GOOD + b'{"prompt": "caf\xe9", "completion": "c"}\n'), "MALFORMED_ROW", "dataset[2]"),
    "half a character": (
        file_of(lambda: GOOD + b'{"prompt": "\\ud83d", "completion": "c"}\n'),
        "MALFORMED_ROW",
        "dataset[2].prompt",
    ),
    "UTF-32": (file_of(lambda: GOOD.decode().encode("utf-32")), "NOT_UTF8", "dataset"),
    "a line of 50 MB": (file_of(lambda: GOOD + LONG), "MALFORMED_ROW", "dataset[2]"),
    "nothing": (file_of(lambda: b"\n \n"), "EMPTY_DATASET", "dataset"),
    "empty rows": (file_of(lambda: GOOD + b"{}\n"), "MALFORMED_ROW", "dataset[2]"),
    "empty answers": (
        file_of(lambda: GOOD + b'{"prompt": "p", "completion": ""}\n'),
        "MALFORMED_ROW",
        "dataset[2].completion",
    ),
    "an unknown role": (
        file_of(lambda: b'{"messages": [{"role": "boss", "content": "a"}]}\n'),
        "MALFORMED_ROW",
        "dataset[1].messages[0].role",
    ),
    "rows that need what is left out": (file_of(lambda: LEFT_OUT), "UNREAD_COLUMNS", "dataset.reading"),
    "a Parquet file that lies": (file_of(lying_parquet, "train.parquet"), "DATASET_UNREADABLE", "dataset"),
    "a zip bomb": (
        file_of(lambda: gzip.compress(b'{"text": "' + b"x" * 500_000 + b'"}\n')),
        "DATASET_TOO_LARGE",
        "dataset",
    ),
    "a template that refuses": (
        base_of(template("{{ raise_exception('only to be read') }}")),
        "TEMPLATE_REFUSED_ROW",
        "dataset[1].messages",
    ),
    "a template that is none": (base_of(template("{% for %}")), "TEMPLATE_REFUSED_ROW", "dataset[1].messages"),
    "a template that fails": (base_of(template("{{ 1 // 0 }}")), "TEMPLATE_REFUSED_ROW", "dataset[1].messages"),
    "sequences longer than the model": (
        lambda plan, _: tuned(plan, sequence_length=513),
        "SEQUENCE_TOO_LONG",
        "training.sequence_length",
    ),
    "targets that no layer has": (
        lambda plan, _: replace(plan, method=replace(LORA, modules=("q_prj",))),
        "TARGET_NOT_FOUND",
        "lora.target_modules",
    ),
    "a base with code of its own": (
        base_of(lambda folder: configure(folder, model_type="tiny9", auto_map={"AutoModelForCausalLM": "x.Y"})),
        "MODEL_REMOTE_CODE",
        "model",
    ),
    "a base in pickles": (base_of(pickled), "MODEL_PICKLED", "model"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_before_training_with_nothing_left_behind(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(content, "FREE_BYTES", 100_000)
    change, reason, field = CASES[name]
    changed = change(plan, tmp_path)
    recorder = Recorder()
    with pytest.raises(TaskError) as refused:
        run(changed, recorder)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert refused.value.remedy
    assert str(tmp_path) not in refused.value.message
    assert not recorder.of(event_pb2.StepMetrics)
    assert not recorder.of(event_pb2.AttemptStarted)
    assert not changed.artifact.exists()
    assert not [path for path in changed.work.rglob("*") if path.is_file()]


def test_a_vocabulary_that_does_not_match_is_refused(plan: Plan, tmp_path: Path, tokenizer: Any) -> None:
    from copy import deepcopy

    larger = deepcopy(tokenizer)
    larger.add_tokens([f"<extra{i}>" for i in range(40)])
    with pytest.raises(TaskError) as refused:
        run(base_of(larger.save_pretrained)(plan, tmp_path))
    assert (refused.value.reason, refused.value.field) == ("VOCABULARY_MISMATCH", "model")
    assert not plan.artifact.exists()
