# SPDX-License-Identifier: Apache-2.0
"""The training loop, what one step computes, checkpoints and evaluations."""
