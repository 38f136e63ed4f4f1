# SPDX-License-Identifier: Apache-2.0
"""How workers find the trainer that they attach to, where its address may change."""
