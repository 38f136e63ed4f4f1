# SPDX-License-Identifier: Apache-2.0
"""The trainer's replies and events as text."""
