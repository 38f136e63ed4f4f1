# SPDX-License-Identifier: Apache-2.0
"""Base models and trained weights on this machine: where each one is, how it is laid out, and where it comes from."""
