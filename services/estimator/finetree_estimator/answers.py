# SPDX-License-Identifier: Apache-2.0
"""Answers that were given before: an estimate is a function of its request and of what the program knows."""

from collections import OrderedDict

from finetree_api.estimator.v1 import estimator_pb2 as pb

MOST = 4096
"""Answers that are kept, the ones asked for last: some twenty megabytes."""


class Answers:
    """The last answers by request, both as bytes, so that a known one is given without reading the question."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def find(self, key: bytes) -> bytes | None:
        """The answer to a request, if it is kept."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def keep(self, key: bytes, answer: bytes) -> None:
        """Keep an answer; the one that was not asked for the longest goes when there are too many."""
        self._known[key] = answer
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Forget all: what the program knows has changed."""
        self._known.clear()


def key_of(request: pb.EstimateRunRequest) -> bytes:
    """What identifies a request in this process."""
    return request.SerializeToString(deterministic=True)
