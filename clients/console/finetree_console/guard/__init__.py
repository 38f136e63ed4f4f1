# SPDX-License-Identifier: Apache-2.0
"""What stands before every request: its id and metadata, who may send it, and how many at once."""
