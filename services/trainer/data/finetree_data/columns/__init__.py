# SPDX-License-Identifier: Apache-2.0
"""Which column of a file holds what: usual names, detection, and mappings that the user gives."""
