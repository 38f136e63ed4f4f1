# SPDX-License-Identifier: Apache-2.0
"""Jobs: planned, created, listed, cancelled, limited in time, and reported to the estimator when they have ended."""
