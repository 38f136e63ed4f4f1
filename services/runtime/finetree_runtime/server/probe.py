# SPDX-License-Identifier: Apache-2.0
"""Check the health of a service: `python -m finetree_runtime.server.probe ADDRESS [SERVICE]` exits 0 for SERVING.

For containers and scripts that have no grpc_health_probe. Without SERVICE it checks liveness of the process, with one
(for example finetree_api.estimator.v1.EstimatorService) readiness of that service.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0
"""Longest wait for the reply in seconds; a probe that hangs has failed."""


def main(arguments: list[str]) -> int:
    """Print the health status and return 0 when it is SERVING, 1 when it is not, 2 on wrong usage."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m finetree_runtime.server.probe ADDRESS [SERVICE]\n")
        return 2
    request = health_pb2.HealthCheckRequest(service=arguments[1] if len(arguments) == 2 else "")
    with grpc.insecure_channel(arguments[0]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}\n")
            return 1
    sys.stdout.write(f"{health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}\n")
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
