# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the console: made from the contract, committed, and served."""
