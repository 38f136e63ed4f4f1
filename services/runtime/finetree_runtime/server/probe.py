# SPDX-License-Identifier: Apache-2.0
"""Check the health of a service: `python -m finetree_runtime.server.probe ADDRESS [SERVICE]` exits 0 for SERVING.

For containers and scripts that have no grpc_health_probe. Without SERVICE it checks liveness of the process, with one
(for example finetree_api.estimator.v1.EstimatorService) readiness of that service. A service with TLS is asked with
`--tls-ca FILE`, one that asks for clients' certificates with `--tls-cert` and `--tls-key` besides. No token is sent:
services tell anybody who can connect how they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0
"""Longest wait for the reply in seconds; a probe that hangs has failed."""


def main(arguments: Sequence[str]) -> int:
    """Print the health status and return 0 when it is SERVING, 1 when it is not, 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m finetree_runtime.server.probe", description=__doc__)
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    parser.add_argument("service", metavar="SERVICE", nargs="?", default="", help="full name of a gRPC service")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM authorities that the server is trusted by")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate to show")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--tls-server-name", metavar="NAME", help="name in the certificate, if not the address's")
    given = parser.parse_args(list(arguments))
    if bool(given.tls_cert) != bool(given.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if given.tls_ca is None and (given.tls_cert or given.tls_server_name):
        parser.error("--tls-cert, --tls-key and --tls-server-name need --tls-ca")
    request = health_pb2.HealthCheckRequest(service=given.service)
    try:
        with _channel(given) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
    except OSError as error:
        sys.stderr.write(f"cannot read the TLS files: {error.strerror}\n")
        return 2
    except grpc.RpcError as error:
        sys.stderr.write(f"{error.code().name}\n")
        return 1
    sys.stdout.write(f"{health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}\n")
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(given: argparse.Namespace) -> grpc.Channel:
    if given.tls_ca is None:
        return grpc.insecure_channel(given.address)
    pair = (given.tls_key.read_bytes(), given.tls_cert.read_bytes()) if given.tls_cert else (None, None)
    credentials = grpc.ssl_channel_credentials(given.tls_ca.read_bytes(), *pair)
    options = [("grpc.ssl_target_name_override", given.tls_server_name)] if given.tls_server_name else []
    return grpc.secure_channel(given.address, credentials, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
