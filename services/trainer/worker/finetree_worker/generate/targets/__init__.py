# SPDX-License-Identifier: Apache-2.0
"""Trained weights of each method as they compute beside others on one base: a file a method."""
