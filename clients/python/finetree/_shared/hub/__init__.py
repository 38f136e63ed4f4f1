# SPDX-License-Identifier: Apache-2.0
"""A model hub as the target of a push."""
