# SPDX-License-Identifier: Apache-2.0
"""Job files: a RunSpec or a JobRequest as strict proto JSON, written as YAML or JSON."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import trainer_pb2
    from yaml.nodes import Node

    from finetree_cli.jobfile.yaml_reader import FileProblem, Place

MAX_FILE_BYTES = 1 << 20
"""Largest job file; the largest that means anything is a hundredth of it."""
STDIN = "-"
"""Name of the standard input in place of a file."""


@dataclass(frozen=True, slots=True)
class LocalData:
    """A dataset that a job file names and that lies beside it on this machine."""

    field_path: str
    """"dataset" or "evaluation.dataset", as a RunSpec path."""
    path: Path


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file that was read without a problem."""

    request: "trainer_pb2.JobRequest"
    file: str
    """Name for people."""
    places: "dict[str, Place]"
    """Where each value stands, by its path in a JobRequest ("spec.training.epochs")."""

    def place_of(self, field_path: str) -> "Place":
        """Where a JobRequest path stands: its own place, or that of the nearest setting around it."""
        from finetree_cli.jobfile.yaml_reader import Place

        path = field_path
        while path and path not in self.places:
            path = re.sub(r"(\.|^)[^.\[]*$|\[[^\[]*$", "", path)
        return self.places.get(path, Place(self.file, 1, 1))

    def problems(self, violations: Sequence[tuple[str, str]]) -> "list[FileProblem]":
        """A server's violations (request path, text) with their places in this file."""
        from finetree_cli.jobfile.yaml_reader import FileProblem

        found = []
        for field, text in violations:
            path = field.removeprefix("job.").removeprefix("run.")
            shown = path if "spec" in self.places else path.removeprefix("spec.")
            found.append(FileProblem(self.place_of(path), shown, text))
        return found

    def local_data(self) -> list[LocalData]:
        """Datasets given by path that exist on this machine, beside the file or absolute."""
        spec = self.request.spec
        beside = Path.cwd() if self.file == "<stdin>" else Path(self.file).parent
        named = [("dataset", spec.dataset), ("evaluation.dataset", spec.evaluation.dataset)]
        given = [(path, beside / source.path) for path, source in named if source.WhichOneof("source") == "path"]
        return [LocalData(path, file) for path, file in given if file.is_file()]


def read(name: str) -> JobFile:
    """Read a job file, or the standard input for "-".

    Raises:
        BadInput: The file cannot be read, or is not a job; every problem carries file, line, column and proto path.
    """
    file, text = text_of(name)
    return parse(text, file)


def parse(text: str, file: str) -> JobFile:
    """Read the text of a job file; `file` is its name in messages."""
    from finetree_api.trainer.v1 import trainer_pb2

    from finetree_cli.jobfile.yaml_reader import JobReader

    request = trainer_pb2.JobRequest()
    reader = JobReader(file)
    root = compose(text, file)
    if _is_request(root):
        reader.read(root, request)
    else:
        request.spec.SetInParent()
        reader.read(root, request.spec)
        reader.places = {f"spec.{path}": place for path, place in reader.places.items()}
    if reader.problems:
        raise _bad_file(file, reader.problems)
    return JobFile(request, file, reader.places)


def text_of(name: str) -> tuple[str, str]:
    """Name for people and text of a file, or of the standard input for "-". Raises BadInput."""
    file = "<stdin>" if name == STDIN else name
    raw = b""
    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == STDIN else _read(Path(name))
        if len(raw) > MAX_FILE_BYTES:
            raise BadInput(
                f"{file}: larger than {MAX_FILE_BYTES} bytes; this is no job file", reason="JOB_FILE_INVALID"
            )
        return file, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}:{line}:1: not UTF-8 text; save the file as UTF-8", reason="JOB_FILE_INVALID") from error
    except OSError as error:
        remedy = "name a job file, or - for the standard input; `finetree recommend --output job.yaml` writes one"
        raise BadInput(f"{file}: {error.strerror}", remedy=remedy, reason="JOB_FILE_UNREADABLE") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def compose(text: str, file: str) -> "Node":
    """The YAML tree of a text; `file` is its name in messages. Raises BadInput with the place."""
    import yaml

    from finetree_cli.jobfile.yaml_reader import FileProblem, Place

    # YAML forbids tabs between tokens and JSON allows them; inside JSON text a raw tab is no legal character anyway.
    plain = text.replace("\t", " ") if text.lstrip()[:1] == "{" else text
    try:
        root = yaml.compose(plain, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        problem = f"not YAML: {error.problem or error.context}"
        raise _bad_file(file, [FileProblem(place, "", problem)]) from error
    except yaml.YAMLError as error:
        raise _bad_file(file, [FileProblem(Place(file, 1, 1), "", f"not YAML: {error}")]) from error
    except RecursionError as error:
        raise _bad_file(file, [FileProblem(Place(file, 1, 1), "", "nested too deeply")]) from error
    if root is None:
        raise _bad_file(file, [FileProblem(Place(file, 1, 1), "", "empty; a job names at least its model")])
    return root


def _is_request(root: "Node") -> bool:
    """Whether the top level is a JobRequest (it has a spec) and not a bare RunSpec."""
    from yaml.nodes import MappingNode

    return isinstance(root, MappingNode) and any(key.value == "spec" for key, _ in root.value)


def _bad_file(file: str, problems: "Sequence[FileProblem]") -> BadInput:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return BadInput(f"{count} in {file}", reason="JOB_FILE_INVALID", problems=problems)
