# SPDX-License-Identifier: Apache-2.0
"""Decide who answers: a server, or the service that is installed on this machine, as a child process."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.backends.local_process import installed
from finetree_cli.errors import NotAvailable
from finetree_cli.options.model_folder import refuse_server

if TYPE_CHECKING:
    from finetree_cli.options.command import Settings

DEFAULT_PORTS: Mapping[str, int] = {"recommender": 50051, "estimator": 50052, "trainer": 50053}
"""Ports on 127.0.0.1 at which the SDK looks for the services and `finetree up` starts them."""
CONNECT_SECONDS = 0.5
"""Longest wait for a connection to a default port."""


def has_address(service: str, settings: "Settings") -> bool:
    """Tell whether an option, the environment or the profile gives the service's address."""
    found = {str(name): setting.level for name, setting in settings.resolved().addresses.items()}
    return found[service] != "default"


def runs_locally(service: str, settings: "Settings", *, local: bool, model: Path | None = None) -> bool:
    """Tell whether the installed service answers in a child process (True) or a server does.

    The first that applies: `local` or a model folder of this machine: the installed service; an address: that server;
    a server on the service's default port: that one; otherwise the installed service, which is announced on stderr.

    Raises:
        BadInput: There is a model folder and an address: a server cannot read the folder.
    """
    if not local:
        refuse_server(model, address_given=has_address(service, settings))
    if local or model is not None:
        return True
    if not is_missing(service, settings) or not installed(service):
        return False
    settings.out.say(f"no {service} server found: the installed {service} answers")
    return True


def reads_locally(settings: "Settings", *, local: bool) -> bool:
    """Tell whether training files are read by the reader that is installed here (True), or by a trainer.

    As `runs_locally`, of the trainer, which itself does not run in a child process.

    Raises:
        NotAvailable: `local`, and the reader is not installed.
    """
    if local and not installed("data"):
        text = "the reader of training files is not installed"
        raise NotAvailable(text, remedy="pip install 'finetree-cli[local]'", reason="LOCAL_ENGINE_NOT_INSTALLED")
    if local:
        return True
    if not is_missing("trainer", settings) or not installed("data"):
        return False
    settings.out.say("no trainer server found: the rows are read here, without a model's tokenizer")
    return True


def is_missing(service: str, settings: "Settings") -> bool:
    """Tell whether a service has neither an address nor a listener on its default port."""
    return not has_address(service, settings) and not _listens(DEFAULT_PORTS[service])


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
