# SPDX-License-Identifier: Apache-2.0
"""What the machine has and who uses it now: limits of its control groups, its cores, its GPUs, its processes."""
