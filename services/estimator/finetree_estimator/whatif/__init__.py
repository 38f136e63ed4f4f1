# SPDX-License-Identifier: Apache-2.0
"""Searches around an estimate: changes that make a run fit, other hardware, and checks against a policy."""
