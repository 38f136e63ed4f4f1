# SPDX-License-Identifier: Apache-2.0
"""The databases that the store can be kept in: what each does differently, and what its failures mean."""
