# SPDX-License-Identifier: Apache-2.0
"""From a policy's tables to a complete RunSpec with the source of every value."""
