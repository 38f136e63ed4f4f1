# SPDX-License-Identifier: Apache-2.0
"""What a model is made of: its dimensions, read from config.json too, its projections, and its number of parameters."""
