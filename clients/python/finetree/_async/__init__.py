# SPDX-License-Identifier: Apache-2.0
"""The clients for asyncio."""
