# SPDX-License-Identifier: Apache-2.0
"""Where a service is looked for, and whether one is there: without one, what is installed answers by itself."""

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from finetree_cli.backends.local_process import installed

if TYPE_CHECKING:
    from finetree_cli.options.command import Settings

KNOCK_SECONDS = 0.5


class Place(NamedTuple):
    """Where a service of this machine is to be found."""

    service: str
    variables: tuple[str, ...]
    """Environment variables that name its address."""
    port: int
    """Port of 127.0.0.1 on which it listens unless it is told otherwise."""


def address_given(place: Place, settings: "Settings", option: str | None) -> bool:
    """Whether an option (the service's own, or that for all) or the environment names an address."""
    return bool(settings.address or option or any(os.environ.get(name) for name in place.variables))


def nobody_serves(place: Place, settings: "Settings", option: str | None) -> bool:
    """Whether no address is given, nobody listens, and the service is installed here; says so on stderr."""
    if address_given(place, settings, option) or not installed(place.service) or _listens(place.port):
        return False
    settings.out.say(f"no {place.service} listens here: answered by the one that is installed, without a server")
    return True


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), KNOCK_SECONDS):
            return True
    except OSError:
        return False
