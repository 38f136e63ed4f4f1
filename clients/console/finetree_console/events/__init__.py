# SPDX-License-Identifier: Apache-2.0
"""A job's events as Server-Sent Events."""
