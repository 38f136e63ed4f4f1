# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with an object store.

Texts are ours alone: those of the store's client hold addresses, bodies of answers and whatever a server put there.

    ObjectStoreError
    ├── ObjectStoreUnavailableError   the same may succeed later
    ├── ObjectStoreRefusedError       somebody has to change something first
    └── ObjectDamagedError            an object is not what its manifest says
"""


class ObjectStoreError(Exception):
    """Base of all of them."""


class ObjectStoreUnavailableError(ObjectStoreError):
    """The store does not answer, answers that it cannot, or takes too long."""


class ObjectStoreRefusedError(ObjectStoreError):
    """The store or its settings cannot be used. `problem` is the stable name of why."""

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class ObjectDamagedError(ObjectStoreError):
    """A manifest, or a file whose bytes do not have the manifest's hash. `path` is its unit, `file` the file in it."""

    def __init__(self, path: str, file: str = "") -> None:
        super().__init__(f"{path}{'/' if file else ''}{file} is damaged")
        self.path, self.file = path, file
