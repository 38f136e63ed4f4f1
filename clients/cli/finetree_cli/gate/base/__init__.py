# SPDX-License-Identifier: Apache-2.0
"""What a change does: the job files of another commit or folder, and their differences."""
