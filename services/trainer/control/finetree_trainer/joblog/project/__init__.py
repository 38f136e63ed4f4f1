# SPDX-License-Identifier: Apache-2.0
"""The event log of each job: states, transactions, progress, watching and listing."""
