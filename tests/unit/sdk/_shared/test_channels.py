# SPDX-License-Identifier: Apache-2.0
"""What a client gives to gRPC."""

import finetree
from finetree._shared.channels import USER_AGENT, channel_arguments
from finetree.config.options import Target


def test_grpc_itself_retries_only_what_no_server_has_seen():
    target = Target("127.0.0.1:1", None)
    unary, stream = (dict(channel_arguments(target, kind)) for kind in ("unary", "stream"))
    assert (unary["grpc.enable_retries"], stream["grpc.enable_retries"]) == (1, 0)
    assert "grpc.service_config" not in unary | stream
    assert unary["grpc.use_local_subchannel_pool"] == stream["grpc.use_local_subchannel_pool"] == 1
    assert unary["grpc.primary_user_agent"] == USER_AGENT
    assert USER_AGENT.startswith(f"finetree-python/{finetree.__version__} grpc/")
