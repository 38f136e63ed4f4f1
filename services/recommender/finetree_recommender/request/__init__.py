# SPDX-License-Identifier: Apache-2.0
"""What was asked, understood: answers, limits, hardware, and what is refused."""
