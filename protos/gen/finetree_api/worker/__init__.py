# SPDX-License-Identifier: Apache-2.0
"""Generated from the contract's package finetree_api.worker."""
