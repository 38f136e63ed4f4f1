# SPDX-License-Identifier: Apache-2.0
"""Unary rpcs as JSON over HTTP, derived from the contract's descriptors."""
