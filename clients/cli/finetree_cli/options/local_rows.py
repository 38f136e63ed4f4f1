# SPDX-License-Identifier: Apache-2.0
"""Profiles of data files on this machine, read as the trainer reads them, with the package that does."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.types.v1 import training_data_pb2
    from finetree_data.file_profile import FileProfile

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.options.spec import Data
    from finetree_cli.output import Output

INSTALL = "pip install 'finetree-cli[local]' brings their reader"


def add_local_profiles(job: "JobFile", out: "Output", request: "estimate_pb2.EstimateRunRequest") -> None:
    """Add the profiles of the job file's data files, and say on stderr what each is. Raises BadInput.

    A file that a run would refuse is refused here too.
    """
    profiles = {"dataset": request.dataset_profile, "evaluation.dataset": request.evaluation_profile}
    files = job.local_data()
    for item in job.absent_data():
        out.say(f"{item.path}: no such file here, so its rows are not counted")
    if files and not _reader_installed():
        out.say(f"the rows of local files are not counted: {INSTALL}")
        return
    for item in files:
        source = job.spec.dataset if item.field_path == "dataset" else job.spec.evaluation.dataset
        profiles[item.field_path].CopyFrom(_profile(item.path, source, out))


def with_local_file(data: "Data", file: "Path | None", out: "Output", *, beside: Path) -> "Data":
    """Add a file of training rows to the data of a request, and say on stderr what it is.

    The file is named by its path from `beside`, the folder of the job file that the request becomes. Raises BadInput
    for a file that a run would refuse, and where the reader is not installed.
    """
    from finetree_api.types.v1 import training_data_pb2

    from finetree_cli.options.spec import Data

    if file is None:
        return data
    if data.dataset is not None or data.profile is not None:
        raise BadInput("--data excludes --dataset and --examples", remedy="the file says how many rows it has")
    if not _reader_installed():
        raise BadInput(f"--data {file}: training files cannot be read here", remedy=INSTALL)
    source = training_data_pb2.DatasetSource(path=os.path.relpath(file, beside))
    return Data(source, _profile(file, source, out), data.evaluation, data.evaluation_profile)


def require_file(path: Path) -> None:
    """Raise BadInput unless a path is a file that can be read and has something in it."""
    remedy = "give a file of training rows"
    if path.is_dir():
        raise BadInput(f"{path} is a directory", remedy=remedy, reason="DATA_FILE_UNREADABLE")
    if not path.is_file():
        raise BadInput(f"{path}: no such file", remedy=remedy, reason="DATA_FILE_UNREADABLE")
    try:
        path.open("rb").close()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", reason="DATA_FILE_UNREADABLE") from error
    if not path.stat().st_size:
        remedy = 'write one row a line, such as {"prompt": "…", "completion": "…"}'
        raise BadInput(f"{path}: the file is empty", remedy=remedy, reason="EMPTY_DATASET")


def described(found: "FileProfile") -> str:
    """One line: rows, what was left out, and what is estimated of their tokens, and how."""
    profile = found.profile
    parts = [f"{'about ' if found.share < 1 else ''}{profile.examples:,} rows ({found.file_format.value})"]
    if found.skipped:
        parts.append(f"{found.skipped:,} left out")
    learned = f"{profile.target_fraction:.0%} of them learned"
    ends = f"{profile.total_tokens_range.low:,} to {profile.total_tokens_range.high:,}"
    template = "" if found.row_format == "text" else " and a chat template's"
    tokens = f"about {profile.total_tokens:,} tokens ({ends}) at 4 bytes each{template}, {learned}"
    if not found.values_read:
        return f"{', '.join(parts)}; {tokens}: assumed, since of Parquet only the footer is read"
    text = f"{', '.join(parts)}; {tokens}, the longest row up to {profile.token_lengths[-1].upper_bound:,}"
    if found.share == 1:
        return text
    return f"{text}; from its first {found.read_bytes >> 20} MiB, {found.share:.1%} of the file"


def _reader_installed() -> bool:
    return importlib.util.find_spec("finetree_data") is not None


def _profile(
    path: Path, source: "training_data_pb2.DatasetSource", out: "Output"
) -> "training_data_pb2.DatasetProfile":
    """Read a file as `source` has it, and say what it is. Raises BadInput."""
    from finetree_data.contract import reading_of
    from finetree_data.errors import DatasetError
    from finetree_data.file_profile import file_profile

    require_file(path)
    try:
        found = file_profile(path, reading_of(source))
    except DatasetError as error:
        reason = "DATA_FILE_UNREADABLE" if error.reason == "DATASET_NOT_FOUND" else error.reason
        raise BadInput(f"{path}: {error.problem}", remedy=error.remedy, reason=reason) from error
    out.say(f"{path}: {described(found)}")
    return found.profile
