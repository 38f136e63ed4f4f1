# SPDX-License-Identifier: Apache-2.0
"""docs/access.md and the contract say the same of who may call what; no field that names a resource is unmarked."""

import re
from pathlib import Path

from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1 import access_pb2
from finetree_runtime.server.access.roles import Role
from finetree_runtime.server.access.token import TOKEN

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/access.md").read_text(encoding="utf-8")
SERVICES = [
    next(iter(module.DESCRIPTOR.services_by_name.values())) for module in (recommender_pb2, estimator_pb2, trainer_pb2)
]
ANYBODY = "any known caller"
NO_RESOURCES = {
    "finetree_api.types.v1.ModelSource.name",
    "finetree_api.types.v1.UnknownAccelerator.name",
    "finetree_api.trainer.v1.GetBaseModelRequest.name",
    "finetree_api.trainer.v1.DeleteBaseModelRequest.name",
    "finetree_api.trainer.v1.ServeTarget.name",
    "finetree_api.trainer.v1.LoadedTarget.name",
    # An operator's, and kept as it is: whoever may report, may report for every job.
    "finetree_api.estimator.v1.Observation.job",
}
"""Fields with a name like those below that name nothing of a project."""
NAMES = {"name", "names", "parent", "job", "jobs", "dataset", "sweep", "artifact", "checkpoint", "before"}


def test_the_table_is_that_of_the_contract():
    rows = re.findall(r"^\| (recommender|estimator|trainer) \| (\w+) \| ([\w ]+) \|$", PAGE, re.MULTILINE)
    stated = []
    for service in SERVICES:
        for method in service.methods:
            role = access_pb2.Role.Name(method.GetOptions().Extensions[access_pb2.access]).removeprefix("ROLE_").lower()
            word = ANYBODY if role == "authenticated" else role
            stated.append((service.name.removesuffix("Service").lower(), method.name, word))
    assert rows == stated


def test_the_roles_are_those_of_the_runtime():
    words = re.findall(r"^\| (\w+) \| [a-z]+ [^|]*\|$", PAGE.partition("## Roles")[2], re.MULTILINE)
    assert words[1:6] == [role.word for role in Role]


def test_scanners_get_the_expression_of_the_runtime():
    assert rf"\b{TOKEN.pattern}\b" in PAGE


def test_every_field_of_a_request_that_names_a_resource_is_marked():
    marked, unmarked = set(), set()
    for field in fields_of_requests():
        if field.GetOptions().Extensions[access_pb2.resource]:
            marked.add(field.full_name)
        elif field.name in NAMES or comment_says_project(field):
            unmarked.add(field.full_name)
    assert unmarked == NO_RESOURCES
    assert len(marked) > 45


def fields_of_requests():
    """Text fields of all requests and of the messages in them."""
    waiting, seen = [method.input_type for service in SERVICES for method in service.methods], set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("finetree_api."):
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.message_type is not None:
                waiting.append(field.message_type)
            elif field.type == field.TYPE_STRING:
                yield field


def comment_says_project(field) -> bool:
    """Whether the comment above a field speaks of a name in a project."""
    text = (ROOT / "protos" / field.file.name).read_text(encoding="utf-8")
    _, _, body = text.partition(f"message {field.containing_type.name} {{")
    above, found, _ = body.partition(f" {field.name} = {field.number}")
    assert found or field.containing_type.GetOptions().map_entry
    comment = re.search(r"((?: *//.*\n)*)[^\n]*$", above)
    return "projects/{project}" in comment[1]
