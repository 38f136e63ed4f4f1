# SPDX-License-Identifier: Apache-2.0
"""The gate: policies, and what a check of job files finds, as one document that everything else reads."""
