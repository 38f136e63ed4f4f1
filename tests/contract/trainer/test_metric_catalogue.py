# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md lists what a running trainer shows, and nothing else."""

import re
from pathlib import Path

from held_port import held_port
from trainer_harness import trainer

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\| (.*?) \|")


async def test_the_page_lists_every_metric_with_type_labels_and_meaning(tmp_path):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    async with trainer(tmp_path, metrics_address=str(held_port()), object_store=bucket.as_uri()) as one:
        shown = one.application._service.meter.instruments
    documented = [ROW.match(line).groups() for line in listed() if line not in of_replicas()]
    assert sorted(documented) == sorted((one.name, one.kind, ", ".join(one.labels), one.text) for one in shown)


def test_no_label_could_hold_a_name_that_a_user_gives():
    labels = {label for line in listed() for label in ROW.match(line)[3].split(", ") if label}
    assert labels <= {
        *("grpc_type", "grpc_service", "grpc_method", "grpc_code", "reason", "state", "task", "outcome", "category"),
        *("kind", "method", "node", "device", "slot", "loop", "direction"),
    }


def listed():
    """Rows of the services' metrics; those of the sinks are another program's."""
    return rows(PAGE.read_text(encoding="utf-8").partition("\n## Sinks")[0])


def of_replicas():
    """Rows of what a replica alone shows: test_replicas.py looks at one."""
    return rows(PAGE.read_text(encoding="utf-8").partition("\n## Trainer: replicas")[2].partition("\n## ")[0])


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| `")]
