# SPDX-License-Identifier: Apache-2.0
"""The estimator: memory, time and cost of a fine-tuning run as intervals."""

import os

# The core of gRPC reads it once, when it is imported, which the stubs do before the runtime could set it: else each
# handshake that fails, whoever caused it, is a line in the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
