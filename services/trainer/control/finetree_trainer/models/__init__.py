# SPDX-License-Identifier: Apache-2.0
"""Base models on this machine: where each one is, and how hub models are laid out."""
