# SPDX-License-Identifier: Apache-2.0
"""The stream to the trainer: events to it, commands from it, reconnecting when it breaks."""
