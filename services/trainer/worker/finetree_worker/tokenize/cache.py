# SPDX-License-Identifier: Apache-2.0
"""Tokenised files that tasks share: found by what they hang on, whole or absent, and bounded in bytes.

Several tasks use the folder at once, and any of them may be killed: an entry appears by one rename, a reader checks its
hashes before it trusts it, and has it mapped when somebody deletes it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from finetree_data.remarks import Remark
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from finetree_worker.atomic_files import MANIFEST, atomic_folder, read_manifest, size, storage_errors
from finetree_worker.errors import StorageError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.rows import RowSource, found_format, rows_of
from finetree_worker.tokenize.token_table import TokenTable, found_in, open_table, write_table
from finetree_worker.tokenize.tokenizer import RowTokenizer, TokenBlock, blocks
from finetree_worker.tokenize.tool_calls import WRITTEN_AS_TEXT, uses_tools

VERSION = 5
"""Grows when the same input would give other tokens, marks or columns: what an earlier version kept is not used."""
SILENCE_SECONDS = 3600.0
"""An unfinished entry that nobody has written to for so long belongs to a task that was killed."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A file's table, and whether it was there already."""

    table: TokenTable
    kept: bool


@dataclass(frozen=True, slots=True)
class TokenCache:
    """A folder of tables, of `limit` bytes at most; what was used longest ago is deleted first."""

    folder: Path
    limit: int

    def table(
        self,
        source: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        loss_on: LossOn,
        on_fraction: Callable[[float], None],
    ) -> Tokenized:
        """The table of a file, tokenised unless it is there whole. `on_fraction` hears 0..1 and may raise to stop.

        Raises DataError (those of `rows_of` and `tokenize`), StorageError.
        """
        entry = self.folder / key(source, tokenizer, loss_on)
        found = _open(entry)
        if found is not None:
            on_fraction(1.0)
            return Tokenized(found, kept=True)
        # What is there and does not open is damaged.
        shutil.rmtree(entry, ignore_errors=True)
        table = _make(entry, source, tokenizer, loss_on, on_fraction)
        self.trim()
        return Tokenized(table, kept=False)

    def trim(self) -> None:
        """Delete what is over the limit, and what tasks that were killed have left."""
        entries = []
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                _remove_if_silent(path)
            elif (used := _last_use(path)) is not None:
                entries.append((used, size(path), path))
        total = sum(size_ for _, size_, _ in entries)
        for _, bytes_, path in sorted(entries):
            if total <= self.limit:
                break
            _remove(path)
            total -= bytes_


def tokenized(
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    loss_on: LossOn,
    on_fraction: Callable[[float], None],
    scratch: Path,
) -> Tokenized:
    """The table of a file where nothing is kept: its file is made below `scratch`, mapped and deleted."""
    with storage_errors():
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tokens-", dir=scratch))
    try:
        with storage_errors():
            _write(folder, source, tokenizer, loss_on, on_fraction)
        return Tokenized(open_table(folder), kept=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def key(source: RowSource, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> str:
    """sha256 (hex) of all that decides a table: the bytes, the tokenizer, its template, what is learned, the code."""
    with storage_errors(), source.path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    decisive = {
        "version": VERSION,
        "content": content,
        "tokenizer": tokenizer_digest(tokenizer),
        "loss_on": loss_on.value,
        "libraries": {name: metadata.version(name) for name in ("tokenizers", "transformers", "jinja2")},
        "suffixes": [suffix.lower() for suffix in source.path.suffixes[-2:]],
        "reading": asdict(replace(source.reading, name="")),
        "day": _day(tokenizer),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of a tokenizer: its vocabulary and rules, its special tokens and its chat template."""
    rules = tokenizer.backend_tokenizer.to_str()
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    text = json.dumps([type(tokenizer).__name__, rules, special, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _day(tokenizer: PreTrainedTokenizerBase) -> str:
    # Some templates (Llama 3.2's) write today's date into every row.
    dated = "strftime_now" in str(tokenizer.chat_template)
    return datetime.now(UTC).date().isoformat() if dated else ""


def _open(entry: Path) -> TokenTable | None:
    try:
        if read_manifest(entry) is None:
            return None
        table = open_table(entry)
        os.utime(entry / MANIFEST)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return table


def _make(
    entry: Path,
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    loss_on: LossOn,
    on_fraction: Callable[[float], None],
) -> TokenTable:
    made: list[TokenTable] = []
    try:
        with atomic_folder(entry, {"format": VERSION}) as draft:
            _write(draft, source, tokenizer, loss_on, on_fraction)
            # Mapped before anybody can delete it for its size.
            made.append(open_table(draft))
    except StorageError as error:
        # Another task made the same entry meanwhile; ours is as good, and still mapped.
        if error.reason != "OUTPUT_EXISTS":
            raise
    return made[0]


def _write(
    folder: Path,
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    loss_on: LossOn,
    on_fraction: Callable[[float], None],
) -> None:
    file = source.open()
    maker = RowTokenizer(tokenizer, loss_on)
    remarks: list[Remark] = []

    def made() -> Iterator[TokenBlock]:
        for rows in blocks(rows_of(file, source.place)):
            if not remarks and any(map(uses_tools, rows)) and not maker.template.knows_tools:
                remarks.append(WRITTEN_AS_TEXT)
            yield maker.block(rows, found_format(file))
            on_fraction(file.fraction)

    write_table(folder, made(), maker, lambda: found_in(file, *remarks))
    on_fraction(1.0)


def _last_use(entry: Path) -> float | None:
    try:
        return (entry / MANIFEST).stat().st_mtime
    except OSError:
        return None


def _remove_if_silent(draft: Path) -> None:
    try:
        newest = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
    except OSError:
        return
    if time.time() - newest > SILENCE_SECONDS:
        shutil.rmtree(draft, ignore_errors=True)


def _remove(entry: Path) -> None:
    """Take an entry out of sight at once, then delete it: nobody finds half of it."""
    away = entry.with_name(f".{entry.name}.{os.getpid()}.gone")
    try:
        entry.rename(away)
    except OSError:
        return
    shutil.rmtree(away, ignore_errors=True)
