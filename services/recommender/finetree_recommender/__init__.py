# SPDX-License-Identifier: Apache-2.0
"""Which fine-tuning method, and why: rule packs as data, decisions with reasons."""
