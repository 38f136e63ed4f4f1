# SPDX-License-Identifier: Apache-2.0
"""Confinement of the processes that read what others made: what each may touch, and what of that the system enforces.

Nothing here imports a library: it runs before a worker imports any.
"""
