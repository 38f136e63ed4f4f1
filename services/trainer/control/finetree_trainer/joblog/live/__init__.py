# SPDX-License-Identifier: Apache-2.0
"""What is kept in memory of a job that is written or watched, and when its watchers are woken."""
