# SPDX-License-Identifier: Apache-2.0
"""What is tried before the first step: that rows of a pack stay apart, and that the largest micro-batch fits."""
