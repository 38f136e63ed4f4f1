# SPDX-License-Identifier: Apache-2.0
"""The estimator: memory, time and cost of a fine-tuning run as intervals."""
