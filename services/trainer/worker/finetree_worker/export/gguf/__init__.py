# SPDX-License-Identifier: Apache-2.0
"""GGUF files, the format of llama.cpp and of what is built on it: written, and read back."""
