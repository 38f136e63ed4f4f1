# SPDX-License-Identifier: Apache-2.0
"""Policies: limits from a policy file and from options, which file's job each applies to, and tests of a policy."""
