# SPDX-License-Identifier: Apache-2.0
"""The gate of a pipeline: policies, and what a check amounts to."""
