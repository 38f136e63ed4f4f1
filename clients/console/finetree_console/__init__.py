# SPDX-License-Identifier: Apache-2.0
"""HTTP for the suite: one process in front of the three services, a client like any other."""
