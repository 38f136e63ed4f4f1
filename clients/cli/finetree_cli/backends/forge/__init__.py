# SPDX-License-Identifier: Apache-2.0
"""Comments on pull requests and merge requests: one that is marked as ours, edited in place."""
