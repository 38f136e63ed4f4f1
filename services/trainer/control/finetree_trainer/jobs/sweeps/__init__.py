# SPDX-License-Identifier: Apache-2.0
"""Sweeps: trials of one job with different settings, started one after another, stopped where they fall behind."""
