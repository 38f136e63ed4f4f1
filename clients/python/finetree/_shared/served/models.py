# SPDX-License-Identifier: Apache-2.0
"""Which of a server's models are the base and the adapter of a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from finetree_api.trainer.v1 import artifact_pb2, event_pb2

from finetree._shared.requests import invalid
from finetree._shared.served.canaries import RecordedAnswer
from finetree.errors import NotFound

MOST_EVENTS = 100
"""Sample events of a job that are looked at, the newest ones."""


def recorded(events: Iterable[event_pb2.JobEvent]) -> list[RecordedAnswer]:
    """Return the answers that training has recorded for its samples."""
    found = (event.sample for event in events)
    return [RecordedAnswer(each.prompt, each.before, each.after) for each in found if each.prompt and each.after]


def base_of(artifacts: Iterable[artifact_pb2.Artifact]) -> str:
    """Return the hub id of a job's base; empty where it has none."""
    return next((artifact.base.hub_id for artifact in artifacts if artifact.base.hub_id), "")


def choose(
    models: Mapping[str, str], *, uid: str, hub_id: str, base_model: str | None, model: str | None
) -> tuple[str, str]:
    """Return the names of base and adapter on a server that has `models`, by name with what each is an adapter of.

    Args:
        models: what the server lists.
        uid: UUID of the job; this suite's own server ends the name of what a job has trained with it.
        hub_id: of the job's base, empty where it has none.
        base_model: the base's name as the caller gave it.
        model: the adapter's.

    Raises:
        InvalidArgument: the names do not tell.
        NotFound: NOT_SERVED: one is not there.
    """
    adapter = model or _named_after(uid, models)
    base = base_model or models.get(adapter or "") or hub_id
    there = ", ".join(models) or "none"
    if base not in models and base_model is None:
        # vLLM names the base of an adapter as its parent, and serves the base under that name.
        roots = {parent for parent in models.values() if parent in models} or set(models) - {adapter}
        if len(roots) != 1:
            raise invalid("base_model", f"which of these is the base? {there}")
        (base,) = roots
    if base not in models:
        raise NotFound(f"the server has no model {base!r}; it has {there}", reason="NOT_SERVED")
    others = [name for name in models if name != base]
    if adapter is None and not others:
        text = f"the server has only {base}; load the adapter under a name of its own"
        raise NotFound(text, reason="NOT_SERVED")
    if adapter is None and len(others) > 1:
        raise invalid("model", f"which of these is the adapter? {', '.join(others)}")
    adapter = adapter or others[0]
    if adapter not in models:
        raise NotFound(f"the server has no model {adapter!r}; it has {there}", reason="NOT_SERVED")
    if adapter == base:
        raise invalid("model", "base and adapter have the same name; name the one that is served beside the base")
    return base, adapter


def _named_after(uid: str, models: Iterable[str]) -> str | None:
    """Return the one model whose name ends in a job's uid."""
    found = [name for name in models if uid and name.rpartition(":")[2] == uid]
    return found[0] if len(found) == 1 else None
