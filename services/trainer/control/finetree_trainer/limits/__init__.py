# SPDX-License-Identifier: Apache-2.0
"""Limits of projects and principals on what the trainer does and keeps for them."""
