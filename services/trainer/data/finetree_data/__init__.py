# SPDX-License-Identifier: Apache-2.0
"""Reading training files: what they are written in, what their rows hold, and what is wrong with them."""
