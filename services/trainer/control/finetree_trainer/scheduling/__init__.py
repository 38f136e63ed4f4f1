# SPDX-License-Identifier: Apache-2.0
"""Devices of this machine and the queue of jobs that wait for them."""
