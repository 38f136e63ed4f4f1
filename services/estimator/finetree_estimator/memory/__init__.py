# SPDX-License-Identifier: Apache-2.0
"""Bytes: what a run holds on each device and on the host, by component, and whether it fits."""
