# SPDX-License-Identifier: Apache-2.0
"""Domain values as messages of the contract."""
