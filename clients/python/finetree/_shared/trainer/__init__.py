# SPDX-License-Identifier: Apache-2.0
"""Requests of the trainer that have a file of their own, one subject each."""
