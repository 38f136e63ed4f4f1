# SPDX-License-Identifier: Apache-2.0
"""Which servers serve what a run makes: rules read from the servers' code, and their evaluation."""
