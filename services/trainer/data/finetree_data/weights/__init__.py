# SPDX-License-Identifier: Apache-2.0
"""Trained weights on disk: headers of safetensors files, adapters, checkpoints, and the fingerprint of a base."""
