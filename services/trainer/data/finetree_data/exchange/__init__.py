# SPDX-License-Identifier: Apache-2.0
"""Files that a worker and the trainer leave for each other: an attempt's events and log, and which replica leads."""
