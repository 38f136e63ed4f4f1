# SPDX-License-Identifier: Apache-2.0
"""What a call passes before its method runs: who the caller is, and whether there is a place for it."""
