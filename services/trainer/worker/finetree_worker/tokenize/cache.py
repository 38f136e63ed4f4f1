# SPDX-License-Identifier: Apache-2.0
"""Cache of tokenized files that tasks share: found by a digest of everything that decides them, bounded in bytes.

Several tasks use the folder at once, and any of them may be killed: an entry appears by one rename, a reader checks its
hashes first, and keeps it mapped when another task deletes it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from finetree_data.remarks import Remark
from finetree_data.report.build import Progress
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from finetree_worker.atomic_files import MANIFEST, atomic_folder, read_manifest, size, storage_errors
from finetree_worker.errors import StorageError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.limits import BlockLimits, limited
from finetree_worker.tokenize.render import Rendered
from finetree_worker.tokenize.rows import Row, RowSource, found_row_format, rows_of
from finetree_worker.tokenize.token_table import ReadResult, TokenTable, open_table, write_table
from finetree_worker.tokenize.tokenizer import RowTokenizer, TokenBlock, blocks
from finetree_worker.tokenize.tool_calls import WRITTEN_AS_TEXT, uses_tools

VERSION = 10
"""Changes when equal input would give other tokens, marks or columns: entries of earlier versions are not used."""
SILENCE_SECONDS = 3600.0
"""Time after which an unfinished entry without writes belongs to a task that was killed."""


@dataclass(frozen=True, slots=True)
class TableInput:
    """Everything that decides a table: the file and its reading, the tokenizer, the tokens that count in the loss.

    Without `append_eos` no row gets an end-of-sequence token that it lacks.
    """

    source: RowSource
    tokenizer: PreTrainedTokenizerBase
    loss_on: LossOn
    append_eos: bool = True

    def digest(self) -> str:
        """Return the sha256 (hex) of the file's bytes, the tokenizer, its template, the settings and the code."""
        source, tokenizer = self.source, self.tokenizer
        with storage_errors(), source.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        decisive = {
            "version": VERSION,
            "content": content,
            "tokenizer": tokenizer_digest(tokenizer),
            "loss_on": self.loss_on.value,
            "append_eos": self.append_eos,
            "libraries": {name: metadata.version(name) for name in ("tokenizers", "transformers", "jinja2")},
            "suffixes": [suffix.lower() for suffix in source.path.suffixes[-2:]],
            "reading": asdict(replace(source.reading, name="", accepted_findings=())),
            "day": _day(tokenizer),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path, on_progress: Progress) -> None:
        """Tokenize the file and write its table into `folder`. Raises DataError, OSError."""
        file, maker = self.source.open(), RowTokenizer(self.tokenizer, self.loss_on, append_eos=self.append_eos)
        remarks: list[Remark] = []

        count = 0

        def rendered(limits: BlockLimits) -> Iterator[tuple[list[Row], list[Rendered]]]:
            nonlocal count
            for rows in blocks(rows_of(file, self.source.place)):
                limits.begin(rows[0].number)
                if not remarks and any(map(uses_tools, rows)) and not maker.template.knows_tools:
                    remarks.append(WRITTEN_AS_TEXT)
                yield rows, maker.render(rows, found_row_format(file))
                count += len(rows)
                on_progress(file.fraction, count)

        thread = ThreadPoolExecutor(1)
        try:
            with limited() as limits:
                made = _one_ahead(thread, maker.block, rendered(limits))
                write_table(folder, made, maker, read=lambda: ReadResult.of(file, *remarks))
        finally:
            # Without waiting for it: what it tokenizes may be what took too long.
            thread.shutdown(wait=False, cancel_futures=True)
        on_progress(1.0, count)


def _one_ahead(
    thread: ThreadPoolExecutor,
    block: Callable[[list[Row], list[Rendered]], TokenBlock],
    rendered: Iterable[tuple[list[Row], list[Rendered]]],
) -> Iterator[TokenBlock]:
    """Tokenize each block on the thread while the next one is read and rendered.

    The tokenizer works outside of Python's global lock, so that two cores share the work.
    """
    ahead: Future[TokenBlock] | None = None
    for rows, texts in rendered:
        done, ahead = ahead, thread.submit(block, rows, texts)
        if done is not None:
            yield _result(done)
    if ahead is not None:
        yield _result(ahead)


def _result(block: Future[TokenBlock]) -> TokenBlock:
    """Wait for a block in short pieces: a signal that reaches another thread does not end a wait of this one."""
    while True:
        done, _ = wait((block,), timeout=0.2)
        if done:
            return block.result()


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A file's table, and whether the cache had it."""

    table: TokenTable
    from_cache: bool


@dataclass(frozen=True, slots=True)
class TokenCache:
    """A folder of tables, of `limit` bytes at most; the least recently used are deleted first."""

    folder: Path
    limit: int

    def table(self, wanted: TableInput, on_progress: Progress) -> Tokenized:
        """Return the table of a file, tokenized unless the cache has it.

        `on_progress` is called with 0..1 and the rows so far, and may raise to stop. Raises DataError (those of
        `rows_of` and of `RowTokenizer.block`), StorageError.
        """
        entry = self.folder / wanted.digest()
        found = _open(entry)
        if found is not None:
            on_progress(1.0, len(found.rows))
            return Tokenized(found, from_cache=True)
        # An entry that does not open is damaged.
        shutil.rmtree(entry, ignore_errors=True)
        table = _make(entry, wanted, on_progress)
        self.trim()
        return Tokenized(table, from_cache=False)

    def trim(self) -> None:
        """Delete entries beyond the limit, and unfinished ones of tasks that were killed."""
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


def tokenized(wanted: TableInput, scratch: Path, on_progress: Progress) -> Tokenized:
    """Return the table of a file without a cache: its file is made below `scratch`, mapped and deleted."""
    with storage_errors():
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tokens-", dir=scratch))
    try:
        with storage_errors():
            wanted.write(folder, on_progress)
        return Tokenized(open_table(folder), from_cache=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 (hex) of a tokenizer: its vocabulary and rules, its special tokens, its chat template."""
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


def _make(entry: Path, wanted: TableInput, on_progress: Progress) -> TokenTable:
    made: list[TokenTable] = []
    try:
        with atomic_folder(entry, {"format": VERSION}) as draft:
            wanted.write(draft, on_progress)
            # Mapped before another task can delete it for its size.
            made.append(open_table(draft))
    except StorageError as error:
        # Another task made the entry meanwhile; this one is equal, and still mapped.
        if error.reason != "OUTPUT_EXISTS":
            raise
    return made[0]


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
    """Rename an entry, then delete it, so that no task opens half of it."""
    away = entry.with_name(f".{entry.name}.{os.getpid()}.gone")
    try:
        entry.rename(away)
    except OSError:
        return
    shutil.rmtree(away, ignore_errors=True)
