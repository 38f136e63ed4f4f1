# SPDX-License-Identifier: Apache-2.0
"""The processes of a run on several devices: what they divide, what they tell each other, and who watches them."""
