# SPDX-License-Identifier: Apache-2.0
"""Profiles of a job file's local data, read as the trainer reads it, with the package that does."""

import importlib.util
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_data.file_profile import FileProfile

    from finetree_cli.jobfile.job import JobFile, LocalData
    from finetree_cli.output import Output


def add_local_profiles(job: "JobFile", out: "Output", request: "estimate_pb2.EstimateRunRequest") -> None:
    """Add the profiles of the job file's data files, and say on stderr what each is. Raises BadInput.

    A file that a run would refuse is refused here too.
    """
    profiles = {"dataset": request.dataset_profile, "evaluation.dataset": request.evaluation_profile}
    files = job.local_data()
    if files and importlib.util.find_spec("finetree_data") is None:
        out.say("the rows of local files are not counted: pip install 'finetree-cli[local]' brings their reader")
        return
    for item in files:
        found = _read(item, job)
        profiles[item.field_path].CopyFrom(found.profile)
        out.say(f"{item.path}: {described(found)}")


def described(found: "FileProfile") -> str:
    """One line: rows, what was left out, and what is estimated of their tokens, and how."""
    profile = found.profile
    parts = [f"{'about ' if found.share < 1 else ''}{profile.examples:,} rows ({found.file_format.value})"]
    if found.skipped:
        parts.append(f"{found.skipped:,} left out")
    learned = f"{profile.target_fraction:.0%} of them learned"
    tokens = f"about {profile.total_tokens:,} tokens at 4 characters each, {learned}"
    if not found.values_read:
        return f"{', '.join(parts)}; {tokens}: assumed, since of Parquet only the footer is read"
    text = f"{', '.join(parts)}; {tokens}, the longest row up to {profile.token_lengths[-1].upper_bound:,}"
    if found.share == 1:
        return text
    return f"{text}; from its first {found.read_bytes >> 20} MiB, {found.share:.1%} of the file"


def _read(item: "LocalData", job: "JobFile") -> "FileProfile":
    from finetree_data.contract import reading_of
    from finetree_data.errors import DatasetError
    from finetree_data.file_profile import file_profile

    source = job.spec.dataset if item.field_path == "dataset" else job.spec.evaluation.dataset
    try:
        return file_profile(item.path, reading_of(source))
    except DatasetError as error:
        reason = "DATA_FILE_UNREADABLE" if error.reason == "DATASET_NOT_FOUND" else error.reason
        raise BadInput(f"{item.path}: {error.problem}", remedy=error.remedy, reason=reason) from error
