# SPDX-License-Identifier: Apache-2.0
"""What every test process is started with."""

import os

# Test processes that compute share the cores with each other and with workers: threads that spin for long while they
# wait would burn the time of those they wait for. Read by OpenMP when torch is first imported, hence set here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
