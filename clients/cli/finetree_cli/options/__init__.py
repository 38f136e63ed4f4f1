# SPDX-License-Identifier: Apache-2.0
"""Command-line options, and the messages that they become."""
