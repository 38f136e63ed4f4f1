# SPDX-License-Identifier: Apache-2.0
"""What a row holds: messages, content parts, tool calls, plain text."""
