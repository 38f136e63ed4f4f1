# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer.store.move postgresql|embedded DATA_DIR`: what `finetree database move` runs.

The URL of the database on the server is read from the environment, as the trainer reads it. What it prints is in
program_output.py; an error has the exit code 1.
"""

import argparse
import os
import sys
from pathlib import Path

from finetree_runtime.config.settings import SettingsError

from finetree_trainer.layout import Layout, trainer_folder
from finetree_trainer.program_output import Progress, refuse, write
from finetree_trainer.store.backends.examine import url_in
from finetree_trainer.store.backends.url import named, parse
from finetree_trainer.store.move.move import to_folder, to_server

MOVES = {"postgresql": to_server, "embedded": to_folder}


def main(arguments: list[str]) -> int:
    """Move a database, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m finetree_trainer.store.move", description="Move a database.")
    parser.add_argument("target", choices=MOVES, help="where the database is to be")
    parser.add_argument("data_dir", type=Path, help="data folder of `finetree up`, or of a trainer")
    options = parser.parse_args(arguments)
    try:
        url = parse(url_in(os.environ))
        moved = MOVES[options.target](Layout(trainer_folder(options.data_dir)), url, Progress())
    except SettingsError as error:
        return refuse(error)
    except OSError as error:
        why = f"{error.strerror or 'a file cannot be written'}; look at the folder's disk and its rights"
        return refuse(SettingsError("DATA_DIR_UNUSABLE", why))
    tables = {name: {"rows": each.rows, "sha256": each.sha256} for name, each in moved.tables.items()}
    write({"result": {"database": options.target, "server": named(url), "tables": tables, "kept": moved.kept}})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
