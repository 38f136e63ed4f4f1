# SPDX-License-Identifier: Apache-2.0
"""A worker process: one task from its start to its outcome."""
