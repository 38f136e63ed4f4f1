# SPDX-License-Identifier: Apache-2.0
"""What a task reports: its events, the journal that keeps them, and the time that is left."""
