# SPDX-License-Identifier: Apache-2.0
"""What would fit and what would pass: changes to a run, other hardware, limits of a policy."""
