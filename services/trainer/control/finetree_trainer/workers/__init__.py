# SPDX-License-Identifier: Apache-2.0
"""Worker processes and the attempts that they run: start, attach, termination, recovery."""
