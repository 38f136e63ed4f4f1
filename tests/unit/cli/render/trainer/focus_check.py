# SPDX-License-Identifier: Apache-2.0
"""Writes docs/examples/costs.csv anew and has it judged: `python tests/unit/cli/render/trainer/focus_check.py`.

The judge is focus-validator 1.0.0, in an environment of its own: it brings pandas and pyarrow, and asks for versions
that this repository's environment cannot have. It needs Python 3.11 and a package index. Its rules of FOCUS 1.0 know
five columns by other names than the specification has them, hence the copy that it reads.
"""

import csv
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from finetree_api.trainer.v1 import job_pb2
from finetree_cli.render.trainer import focus
from google.protobuf import json_format

SAMPLE = Path(__file__).parents[5] / "docs/examples/costs.csv"
JUDGE = ("focus-validator==1.0.0", "multimethod<2")
"""pandera 0.17, which it asks for, does not work with multimethod 2."""
RENAMED = {
    "ChargeCategory": "ChargeType",
    "InvoiceIssuerName": "InvoiceIssuer",
    "ProviderName": "Provider",
    "PublisherName": "Publisher",
    "ResourceId": "ResourceID",
}


def job(uid: str, **changes: object) -> job_pb2.Job:
    """An ended job."""
    document = {
        "name": f"projects/search/jobs/{uid}",
        "uid": uid,
        "display_name": "query rewriting, v2",
        "state": "JOB_STATE_SUCCEEDED",
        "train": {"spec": {"lora": {}, "hardware": {"accelerator": "l4"}}},
        "start_time": "2026-11-30T22:30:00Z",
        "end_time": "2026-12-01T01:00:00Z",
        "cost": {
            "amount": {"currency_code": "USD", "units": 1, "nanos": 750_000_001},
            "basis": "hourly price of the estimate times the job's running time",
        },
        "estimate": {"cost": {"amount": {"low": 1.5, "expected": 1.8, "high": 2.5}, "currency_code": "USD"}},
        "plan_digest": f"sha256:{'ab' * 32}",
        "labels": {"team": "search", "quoted": 'a "b", c'},
        **changes,
    }
    return json_format.ParseDict(document, job_pb2.Job())


def sample() -> list[job_pb2.Job]:
    """Two jobs, one of which failed, has a name that begins like a formula and no estimate."""
    return [
        job("0192"),
        job(
            "0191",
            display_name="",
            state="JOB_STATE_FAILED",
            train={"spec": {"lora": {}, "ownership": {"rented": {"price_id": "verda/h100/spot/2026"}}}},
            end_time="2026-11-30T23:00:00Z",
            cost={"amount": {"currency_code": "EUR", "nanos": 50_000_000}, "basis": "running time"},
            estimate={},
            labels={},
        ),
    ]


if __name__ == "__main__":
    SAMPLE.write_text(focus.render(sample()), encoding="utf-8", newline="\n")
    with tempfile.TemporaryDirectory(prefix="finetree-focus-") as name:
        folder = Path(name)
        venv.create(folder / "judge", with_pip=True)
        programs = folder / "judge/bin"
        subprocess.run([programs / "pip", "install", "--quiet", *JUDGE], check=True)
        with SAMPLE.open(encoding="utf-8", newline="") as stream:
            head, *rows = csv.reader(stream)
        with (folder / "costs.csv").open("w", encoding="utf-8", newline="") as stream:
            # Under both names: one of its rules asks for the other.
            twice = [head.index(column) for column in RENAMED]
            named = [*head, *(RENAMED[head[place]] for place in twice)]
            csv.writer(stream).writerows([named, *([*row, *(row[place] for place in twice)] for row in rows)])
        words = ["--data-file", folder / "costs.csv", "--validate-version", "1.0"]
        # It looks for its list of currencies from the folder in which it is installed.
        place = next((folder / "judge/lib").glob("python*/site-packages"))
        sys.exit(subprocess.run([programs / "focus-validator", *words], cwd=place, check=False).returncode)
