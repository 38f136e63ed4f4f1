# SPDX-License-Identifier: Apache-2.0
"""Short general English texts on which forgetting is seen: their loss grows when a model loses what it could before.

The passages in general_passages.jsonl were written for this project, and are under its license, Apache-2.0. They state
common knowledge in plain words and quote no other work. Sixty are few: they show damage, not its finer degrees.
"""

import json
from importlib import resources

from finetree_worker.tokenize.rows import Row

FILE = "general_passages.jsonl"
"""Name of the file beside this module: an object with a "text" on each line."""


def general_rows() -> list[Row]:
    """Return the passages as rows of plain text."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return [Row(number, text=json.loads(line)["text"]) for number, line in enumerate(text.splitlines(), start=1)]
