# SPDX-License-Identifier: Apache-2.0
"""The stream to the training service: it carries events there and commands back, and survives breaks."""
