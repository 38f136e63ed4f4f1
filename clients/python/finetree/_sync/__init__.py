# SPDX-License-Identifier: Apache-2.0
"""The clients that block, with a thread where one is needed."""
