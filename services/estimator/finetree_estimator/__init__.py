# SPDX-License-Identifier: Apache-2.0
"""What a fine-tuning run takes: memory, time and cost as intervals."""
