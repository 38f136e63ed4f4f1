# SPDX-License-Identifier: Apache-2.0
"""The estimator's replies as text."""
