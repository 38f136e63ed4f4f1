# SPDX-License-Identifier: Apache-2.0
"""Sinks: what the logs of jobs say, in a tracker or at a webhook, by cursors behind the logs."""
