# SPDX-License-Identifier: Apache-2.0
"""From a RunSpec message to the run that the formulas see."""
