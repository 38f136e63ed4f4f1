# SPDX-License-Identifier: Apache-2.0
"""The `finetree` command, for people and for CI."""
