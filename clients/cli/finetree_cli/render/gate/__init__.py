# SPDX-License-Identifier: Apache-2.0
"""plan.json in the formats of people and pipelines: each a pure function of the report."""
