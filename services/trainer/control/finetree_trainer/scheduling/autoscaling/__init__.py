# SPDX-License-Identifier: Apache-2.0
"""Nodes that an autoscaler may bring: which of them the queue needs, and what jobs are told that wait for one."""
