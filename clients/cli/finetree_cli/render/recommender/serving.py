# SPDX-License-Identifier: Apache-2.0
"""Which servers serve a result, as text."""

from collections.abc import Iterable, Sequence

from finetree_api.types.v1 import serving_pb2

from finetree_cli.output import Output

NAMES = {
    serving_pb2.SERVING_TARGET_VLLM: "vllm",
    serving_pb2.SERVING_TARGET_OLLAMA: "ollama",
    serving_pb2.SERVING_TARGET_LLAMA_CPP: "llama.cpp",
    serving_pb2.SERVING_TARGET_TRANSFORMERS: "transformers",
    serving_pb2.SERVING_TARGET_FINETREE: "finetree",
    serving_pb2.SERVING_TARGET_TGI: "tgi",
    serving_pb2.SERVING_TARGET_SGLANG: "sglang",
}
"""Servers as people type them."""
_WORDS = {
    serving_pb2.SERVING_VERDICT_UNSPECIFIED: "unknown",
    serving_pb2.SERVING_VERDICT_SERVES: "yes",
    serving_pb2.SERVING_VERDICT_SERVES_WITH: "with steps",
    serving_pb2.SERVING_VERDICT_NOT: "no",
}


def show_checks(out: Output, checks: Sequence[serving_pb2.ServingCheck]) -> None:
    """Print the answers as a table, and below it what to do for each server, and where that was read."""
    rows = [(server_of(check), _verdict(check), check.message) for check in checks]
    out.table(["Server", "Serves it", "Why"], rows, wrap=True)
    for check in checks:
        out.text(server_of(check))
        for line in (*check.steps, *([check.remedy] if check.remedy else [])):
            out.bullet(line)
        if check.source_url:
            versions = f" ({', '.join(check.checked_versions)} were read)" if check.checked_versions else ""
            out.bullet(f"source: {check.source_url}{versions}")


def without_own_loader(checks: Iterable[serving_pb2.ServingCheck]) -> list[serving_pb2.ServingCheck]:
    """Leave out that this suite's loader of bottleneck layers does not load something else.

    Nothing else needs it, and it reads as if the suite could not talk to what it has trained: `finetree chat` and
    `finetree serve` do, with every method.
    """
    own, refused = serving_pb2.SERVING_TARGET_FINETREE, serving_pb2.SERVING_VERDICT_NOT
    return [check for check in checks if (check.server, check.verdict) != (own, refused)]


def short_lines(checks: Sequence[serving_pb2.ServingCheck]) -> Iterable[str]:
    """Yield the answers in one line a verdict: "served by vllm (with steps), transformers"."""
    served = [check for check in checks if check.verdict in _SERVED]
    refused = [check for check in without_own_loader(checks) if check.verdict == serving_pb2.SERVING_VERDICT_NOT]
    if served:
        names = (f"{server_of(check)}{' (steps)' if check.steps else ''}" for check in served)
        yield f"served by {', '.join(names)}"
    if refused:
        yield f"not by {', '.join(f'{server_of(check)}{_silently(check)}' for check in refused)}"


def missing(checks: Iterable[serving_pb2.ServingCheck], required: Iterable[str]) -> list[str]:
    """Return the required servers that have an answer other than that they serve it, or none."""
    verdicts: dict[str, list[int]] = {}
    for check in checks:
        verdicts.setdefault(NAMES.get(check.server, ""), []).append(check.verdict)
    return [name for name in required if not all(verdict in _SERVED for verdict in verdicts.get(name) or [0])]


def server_of(check: serving_pb2.ServingCheck) -> str:
    """Return the server and the versions that an answer is about: "vllm >=0.9.0"."""
    return f"{NAMES.get(check.server, str(check.server))} {check.versions}".rstrip()


_SERVED = (serving_pb2.SERVING_VERDICT_SERVES, serving_pb2.SERVING_VERDICT_SERVES_WITH)


def _verdict(check: serving_pb2.ServingCheck) -> str:
    return f"{_WORDS.get(check.verdict, 'unknown')}{_silently(check)}"


def _silently(check: serving_pb2.ServingCheck) -> str:
    return " (silently wrong)" if check.silent else ""
