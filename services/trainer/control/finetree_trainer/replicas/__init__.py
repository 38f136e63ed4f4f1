# SPDX-License-Identifier: Apache-2.0
"""Several trainers on one database and one folder: one of them leads and writes, the others follow (decision 0072)."""
