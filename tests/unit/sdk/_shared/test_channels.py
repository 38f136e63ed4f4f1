# SPDX-License-Identifier: Apache-2.0
"""What a client gives to gRPC."""

import finetree
from finetree import Client
from finetree._shared.channels import SERVICE_CONFIG, USER_AGENT, channel_arguments
from finetree.config.options import Target


def test_streams_are_not_retried_by_grpc_and_unary_calls_are():
    options, target = Client().options, Target("127.0.0.1:1", None)
    unary, stream = (dict(channel_arguments(options, target, kind)) for kind in ("unary", "stream"))
    assert (unary["grpc.enable_retries"], unary["grpc.service_config"]) == (1, SERVICE_CONFIG)
    assert (stream["grpc.enable_retries"], "grpc.service_config" in stream) == (0, False)
    assert unary["grpc.use_local_subchannel_pool"] == stream["grpc.use_local_subchannel_pool"] == 1
    assert unary["grpc.primary_user_agent"] == USER_AGENT
    assert USER_AGENT.startswith(f"finetree-python/{finetree.__version__} grpc/")
