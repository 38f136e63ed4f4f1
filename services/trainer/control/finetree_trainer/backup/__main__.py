# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer.backup create|verify|list|restore|prune|condition …`: what `finetree backup` runs.

What it prints is in program_output.py; an error has the exit code 1.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetree_data.durable_files import DISK_FULL
from finetree_runtime.config.settings import SettingsError

from finetree_trainer.backup.condition import condition_of
from finetree_trainer.backup.create import Sources, create
from finetree_trainer.backup.manifest import Manifest
from finetree_trainer.backup.repository import Repository
from finetree_trainer.backup.restore import choose, restore
from finetree_trainer.jobs.stored.database import MARK, on_server
from finetree_trainer.program_output import Progress, refuse, write


def main(arguments: list[str]) -> int:
    """Run one command, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
    except SettingsError as error:
        return refuse(error)
    except OSError as error:
        return refuse(_failure(error))
    write({"result": result})
    return 0


def _create(options: argparse.Namespace) -> dict[str, Any]:
    sources = Sources.of(options.data_dir, options.estimator_dir)
    if (sources.trainer / MARK).exists():
        raise on_server()
    if not (sources.trainer / "trainer.db").is_file():
        raise SettingsError("DATA_DIR_EMPTY", "there is no trainer.db in the data folder; name a trainer's data folder")
    if options.folder.resolve().is_relative_to(options.data_dir.resolve()):
        text = "the backups would be in the data folder itself; name a folder elsewhere, on another disk if possible"
        raise SettingsError("BACKUP_FOLDER_INSIDE", text)
    repository = Repository.made(options.folder)
    made = create(repository, sources, with_models=not options.without_models, on_progress=Progress())
    return _described(made.manifest) | {"written_bytes": made.written, "missing": list(made.manifest.missing)}


def _list(options: argparse.Namespace) -> dict[str, Any]:
    repository = Repository(options.folder)
    found = []
    for each in repository.ids():
        try:
            found.append(_described(repository.load(each)))
        except SettingsError as error:
            found.append({"id": each, "error": str(error)})
    return {"backups": found}


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    repository = Repository(options.folder)
    progress, done = Progress(), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(done, max(done, total))

    with repository.locked(writing=False):
        backups = [options.backup] if options.backup else repository.ids()
        total = 0
        for backup in backups:
            if options.backup:
                total = repository.load(backup).size_bytes
        found = repository.verify(backups, on_bytes)
    return {
        "backups": found.backups,
        "pieces": found.pieces,
        "size_bytes": found.size_bytes,
        "damaged": found.damaged,
    }


def _restore(options: argparse.Namespace) -> dict[str, Any]:
    repository = Repository(options.folder)
    manifest = choose(repository, backup=options.backup, at=options.at)
    done = restore(repository, manifest, options.to, estimator_dir=options.estimator_dir, on_progress=Progress())
    return _described(manifest) | {
        "folders": {part: str(folder) for part, folder in done.folders.items()},
        "left_out": [part for part in manifest.parts if part not in done.folders],
        "live": list(manifest.live),
        "missing": list(manifest.missing),
    }


def _prune(options: argparse.Namespace) -> dict[str, Any]:
    repository = Repository(options.folder)
    with repository.locked(writing=True):
        removed, freed = repository.prune(options.keep)
    return {"removed": removed, "freed_bytes": freed}


def _condition(options: argparse.Namespace) -> dict[str, Any]:
    return condition_of(Sources.of(options.folder).trainer)


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "time": manifest.time,
        "version": manifest.version,
        "schema_version": manifest.schema_version,
        "parts": list(manifest.parts),
        "with_models": manifest.with_models,
        "jobs": manifest.jobs,
        "live_jobs": len(manifest.live),
        "files": len(manifest.files),
        "size_bytes": manifest.size_bytes,
    }


def _time(text: str) -> datetime:
    """A time as ISO 8601; without an offset it is this machine's."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m finetree_trainer.backup", description="Back up and restore.")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        added.add_argument("folder", type=Path, help="folder that keeps the backups")
        return added

    added = command("create", _create, "make a backup, of services that run or are stopped")
    added.add_argument("--data-dir", type=Path, required=True, help="data folder of `finetree up`, or of a trainer")
    added.add_argument("--estimator-dir", type=Path, help="the estimator's --state-dir, where it is elsewhere")
    added.add_argument("--without-models", action="store_true", help="leave base models out")
    added = command("verify", _verify, "read everything and compare it with its hashes")
    added.add_argument("--backup", default="", help="one backup; default: all")
    command("list", _list, "list the backups")
    added = command("restore", _restore, "put a backup into an empty folder")
    added.add_argument("--to", type=Path, required=True, help="data folder, empty or new")
    added.add_argument("--estimator-dir", type=Path, help="the estimator's --state-dir, where it is elsewhere")
    added.add_argument("--backup", default="", help="which; default: the newest")
    added.add_argument("--at", type=_time, help="the newest that is not after this time (ISO 8601)")
    command("condition", _condition, "say what is wrong with a data folder (named in place of the backups')")
    added = command("prune", _prune, "remove all but the newest backups")
    added.add_argument("--keep", type=_count, required=True, help="how many stay")
    return parser


def _failure(error: OSError) -> SettingsError:
    """What the system refused, without its path."""
    if error.errno in DISK_FULL:
        text = "the disk is full; nothing of this counts, and earlier backups are whole. Free space and try again"
        return SettingsError("BACKUP_DISK_FULL", text)
    return SettingsError("BACKUP_FAILED", f"{error.strerror or 'a file cannot be read'}; look at the folders' rights")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
