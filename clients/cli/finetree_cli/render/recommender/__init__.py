# SPDX-License-Identifier: Apache-2.0
"""The recommender's replies as text."""
