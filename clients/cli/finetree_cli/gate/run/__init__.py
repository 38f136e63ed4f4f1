# SPDX-License-Identifier: Apache-2.0
"""From a plan to its run: the job that may be created, and what it has taken."""
