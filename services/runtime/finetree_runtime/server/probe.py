# SPDX-License-Identifier: Apache-2.0
"""Ask a service how it is: `python -m finetree_runtime.server.probe ADDRESS [SERVICE]`; exit status 0 means SERVING.

Containers and scripts use it where no grpc health probe is at hand. Without SERVICE it asks whether the process lives,
with one (for example finetree_api.estimator.v1.EstimatorService) whether that service is ready.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 2.0
"""Longest time to wait for the answer; a probe that hangs is a failed probe."""


def main(arguments: list[str]) -> int:
    """Print the health status; return 0 when it is SERVING, 1 when it is not, 2 on wrong usage."""
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
