# SPDX-License-Identifier: Apache-2.0
"""Events of a task, the journal that keeps them, and forecasts of the remaining time."""
