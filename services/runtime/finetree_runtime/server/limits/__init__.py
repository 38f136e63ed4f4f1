# SPDX-License-Identifier: Apache-2.0
"""Limits of principals and projects: what the limits file says, and those that a server counts in its memory."""
