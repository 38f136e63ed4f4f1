# SPDX-License-Identifier: Apache-2.0
"""What the trainer shows of itself: metrics for the page of the service, and spans of its jobs."""
