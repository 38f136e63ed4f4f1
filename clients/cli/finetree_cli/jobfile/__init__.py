# SPDX-License-Identifier: Apache-2.0
"""Job and policy files: YAML in which every value keeps its line."""
