# SPDX-License-Identifier: Apache-2.0
"""Ports of loopback that stay a test's own, for programs that insist on a number and for servers that start again."""

import socket


def held_port() -> int:
    """A TCP port of 127.0.0.1 that this process keeps until it ends: one server may listen there, nobody else gets it.

    It is bound with SO_REUSEADDR and never listens. Linux lets another socket that says SO_REUSEADDR too, as servers
    do, bind it by its number and listen; it gives it neither to who asks for any port nor to an outgoing connection.
    A connection is refused as long as nobody listens.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        held.detach()  # stays open
    return port
