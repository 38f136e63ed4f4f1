# SPDX-License-Identifier: Apache-2.0
"""Everything that a reply says about a verdict: reasons, cautions, counterfactuals, confidence, other policies."""
