# SPDX-License-Identifier: Apache-2.0
"""Jobs side by side: what differs in their specs, how they went, and which one is better where that can be told."""
