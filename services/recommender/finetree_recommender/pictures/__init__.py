# SPDX-License-Identifier: Apache-2.0
"""A pack's way of deciding and a recommendation's methods as pictures."""
