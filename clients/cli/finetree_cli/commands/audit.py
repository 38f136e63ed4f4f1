# SPDX-License-Identifier: Apache-2.0
"""`finetree audit`: verify and read the audit logs of services, from their files alone."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Group, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree_cli.backends.audit.verify import Verdict

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(cls=Group, examples=("finetree audit verify ./audit", "finetree audit show ./audit --since 1d"))
def audit() -> None:
    """Verify and read the audit logs of services (`--audit-dir` of each service)."""


@audit.command(
    examples=(
        "finetree audit verify ./audit",
        "finetree audit verify ./audit --json | jq '.logs[].head'",
        "finetree audit verify ./audit --expect-head 9f2c1d…",
    )
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--expect-head", "heads", multiple=True, metavar="HASH", help="Hash that a record must have; repeatable.")
@click.option("--starts-after", metavar="HASH", help="Hash of the record before the first, if older files were moved.")
@pass_settings
def verify(settings: Settings, /, *, folder: Path, heads: tuple[str, ...], starts_after: str | None) -> None:
    """Verify that no record was changed, removed, inserted or moved.

    DIR holds the log of one service, or a folder for each. A log that was cut at its end, or written anew from a record
    on, shows no fault in itself: keep the printed head elsewhere, and give it with --expect-head the next time. Exit
    code 3: a log is not as it was written; the first record concerned is named.
    """
    from finetree_cli.backends.audit.records import logs
    from finetree_cli.backends.audit.verify import START
    from finetree_cli.backends.audit.verify import verify as verify_log

    wanted = [_hash(head) for head in heads]
    after = _hash(starts_after) if starts_after is not None else START
    verdicts = [verify_log(log, after=after, heads=wanted) for log in logs(folder)]
    found = {head: seq for verdict in verdicts for head, seq in verdict.heads.items()}
    missing = [head for head in wanted if head not in found]
    failed = [verdict for verdict in verdicts if verdict.fault is not None]
    if settings.out.json:
        ok = not failed and not missing
        settings.out.document(
            {"ok": ok, "logs": [_document(verdict) for verdict in verdicts], "missing_heads": missing}
        )
    else:
        for verdict in verdicts:
            _print(settings, verdict)
        for head, seq in found.items():
            settings.out.text(f"head {head} is record {seq}: what stands before it is what it was then")
    for verdict in failed:
        fault = verdict.fault
        assert fault is not None  # noqa: S101 - chosen by it
        text = f"{verdict.folder.name}: record {fault.seq} was {fault.kind} ({fault.file}:{fault.line}): {fault.text}"
        raise GateFailed(text, reason="AUDIT_CHAIN_BROKEN", reported=settings.out.json)
    if missing:
        text = f"no record has the hash {missing[0]}: the end was cut off, or the log was written anew"
        raise GateFailed(text, reason="AUDIT_HEAD_MISSING", reported=settings.out.json)


@audit.command(
    examples=(
        "finetree audit show ./audit --since 1d",
        "finetree audit show ./audit --principal ci --method CreateJob --project search",
        "finetree audit show ./audit --json | jq 'select(.code != \"OK\")'",
    )
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--principal", metavar="NAME", help="Calls of this principal.")
@click.option("--method", metavar="NAME", help="Calls of this rpc, such as CreateJob.")
@click.option("--since", type=Duration(), help="Records of this long ago at most, such as 1d.")
@pass_settings
def show(
    settings: Settings,
    /,
    *,
    folder: Path,
    principal: str | None,
    method: str | None,
    since: float | None,
) -> None:
    """Print records, oldest first: one line each, with --json the records themselves.

    --project chooses calls about the resources of a project.

    Nothing is verified but that each line's hash is its own; `finetree audit verify` does the rest.
    """
    from finetree_cli.backends.audit.records import lines, logs

    begin = datetime.fromtimestamp(datetime.now(UTC).timestamp() - since, UTC).isoformat() if since else ""
    for log in logs(folder):
        for line in lines(log):
            record = line.record
            if not line.record:
                settings.out.say(f"{line.place}: no whole record")
                continue
            if str(record.get("time", "")) < begin[:19]:
                continue
            if _matches(record, principal=principal, method=method, project=settings.project):
                _show(settings, record)


def _matches(record: dict[str, Any], *, principal: str | None, method: str | None, project: str | None) -> bool:
    if principal is not None and record.get("principal") != principal:
        return False
    if method is not None and str(record.get("method", "")).rpartition("/")[2] != method.rpartition("/")[2]:
        return False
    names = [f"{name}/" for name in record.get("resources", [])]
    return project is None or any(name.startswith(f"projects/{project}/") for name in names)


def _show(settings: Settings, record: dict[str, Any]) -> None:
    if settings.out.json:
        settings.out.line(record)
        return
    event = str(record.get("event", ""))
    method = str(record.get("method", "")).rpartition("/")[2]
    outcome = " ".join(str(record[key]) for key in ("code", "reason") if record.get(key))
    known = {"seq", "time", "event", "prev", "hash", "principal", "peer", "method", "resources", "code", "reason"}
    known |= {"kind", "credential", "request_id"}
    rest = " ".join(f"{key}={value}" for key, value in record.items() if key not in known)
    words = [str(record.get("principal", "")), method, *record.get("resources", []), outcome, rest, _from(record)]
    mark = "" if event == "call" else f"{event} "
    settings.out.text(f"{record.get('time', '')} {mark}{' '.join(word for word in words if word)}")


def _from(record: dict[str, Any]) -> str:
    return f"from {record['peer']}" if record.get("peer") else ""


def _print(settings: Settings, verdict: "Verdict") -> None:
    out = settings.out
    state = "ok" if verdict.fault is None else f"BROKEN at record {verdict.fault.seq}"
    found = f"{_counted(verdict.records, 'record')} in {_counted(verdict.files, 'file')}"
    out.text(f"{verdict.folder.name}: {state}, {found}")
    out.text(f"  head {verdict.head} (record {verdict.last_seq})")
    if verdict.torn:
        were = "was" if verdict.torn == 1 else "were"
        text = (
            f"{_counted(verdict.torn, 'line')} {were} cut off when the service was killed; each is marked and chained"
        )
        out.text(f"  {text}")
    if verdict.unfinished:
        out.text("  the last line is not whole: the service was killed, or is just writing it")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _document(verdict: "Verdict") -> dict[str, Any]:
    found = dataclasses.asdict(verdict)
    return found | {"folder": str(verdict.folder), "ok": verdict.fault is None}


def _hash(text: str) -> str:
    lowered = text.lower()
    if len(lowered) != 64 or set(lowered) - set("0123456789abcdef"):
        raise BadInput(f"{text!r} is no hash: it has 64 digits 0-9 a-f, as `finetree audit verify` prints them")
    return lowered
