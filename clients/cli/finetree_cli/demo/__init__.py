# SPDX-License-Identifier: Apache-2.0
"""The demonstration: `finetree demo`."""
