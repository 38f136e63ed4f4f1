# SPDX-License-Identifier: Apache-2.0
"""Calls of the trainer that have a file of their own, one subject each."""
