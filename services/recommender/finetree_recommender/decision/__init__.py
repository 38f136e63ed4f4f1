# SPDX-License-Identifier: Apache-2.0
"""The stages of a decision, in order, and the verdict that they come to."""
