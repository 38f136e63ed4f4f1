# SPDX-License-Identifier: Apache-2.0
"""Explanation of a verdict: reasons, cautions, counterfactuals, confidence, other rule packs."""
