# SPDX-License-Identifier: Apache-2.0
"""Generation: one loaded base, several sets of trained weights on it, answers that are decoded together."""
