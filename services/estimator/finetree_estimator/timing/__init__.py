# SPDX-License-Identifier: Apache-2.0
"""Seconds: of an optimizer step, of communication between devices, and of a run by phase."""
