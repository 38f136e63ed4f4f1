# SPDX-License-Identifier: Apache-2.0
"""What is kept and for how long: deletion on request and by time, what uses what, and what takes how much room."""
