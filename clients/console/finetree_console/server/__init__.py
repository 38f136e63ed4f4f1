# SPDX-License-Identifier: Apache-2.0
"""Listening: the address, the connections, the start and the stop."""
