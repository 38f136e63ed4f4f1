# SPDX-License-Identifier: Apache-2.0
"""The services that a client would call: whether they answer, are ready, and are of this release."""

from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING

from finetree_cli.doctor.finding import Finding, Installation, Level

if TYPE_CHECKING:
    from finetree import Client

SUBJECT = "services"
NAMES = ("recommender", "estimator", "trainer")


def check(installation: Installation) -> Iterator[Finding]:
    """Ask each service what it is, and the trainer for its devices."""
    from finetree import InvalidArgument

    try:
        resolved = installation.settings.resolved()
    except InvalidArgument as error:
        yield Finding(SUBJECT, "settings", Level.PROBLEM, error.message, "finetree config show --origin")
        return
    with installation.settings.client() as client:
        for name in NAMES:
            setting = next(found for service, found in resolved.addresses.items() if str(service) == name)
            yield _asked(client, name, str(setting.value), setting.level == "default", installation.timeout)


def _asked(client: "Client", name: str, address: str, default: bool, timeout: float) -> Finding:
    from finetree import FinetreeError, PermissionDenied, Unavailable

    try:
        found = client.server_info(name, timeout=timeout)  # type: ignore[arg-type]  # one of NAMES
        if name == "trainer":
            with suppress(PermissionDenied):  # a token that may ask for estimates alone
                client.capacity(timeout=timeout)
    except Unavailable as error:
        text = f"{address} does not answer ({error.reason or error.message})"
        if default:
            return Finding(SUBJECT, name, Level.WARNING, text, "finetree up starts it, --address names another server")
        return Finding(SUBJECT, name, Level.PROBLEM, text, f"start the {name}, or see finetree config show --origin")
    except FinetreeError as error:
        return Finding(SUBJECT, name, Level.PROBLEM, f"{address}: {error.message}", "finetree config show --origin")
    return skew(name, address, found.version, metadata.version("finetree-cli"))


def skew(name: str, address: str, theirs: str, ours: str) -> Finding:
    """Compare a service's version with this command's."""
    if theirs != ours:
        text = f"{address} answers, of version {theirs}; this command is {ours}"
        return Finding(SUBJECT, name, Level.WARNING, text, "upgrade the older one (docs/upgrading.md)")
    return Finding(SUBJECT, name, Level.OK, f"{address} answers, version {theirs}")
