# SPDX-License-Identifier: Apache-2.0
"""Evaluation tasks: trained weights beside their base, with intervals and verdicts."""
