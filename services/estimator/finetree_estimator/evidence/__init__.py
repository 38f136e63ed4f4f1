# SPDX-License-Identifier: Apache-2.0
"""How sure an estimate is, and what observed runs correct in it."""
