# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job between its creation and its end: paused, resumed, moved, limited, renamed."""
