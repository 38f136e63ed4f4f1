# SPDX-License-Identifier: Apache-2.0
"""Carries a data folder's database from the folder to a server, and back, while no trainer uses it."""
