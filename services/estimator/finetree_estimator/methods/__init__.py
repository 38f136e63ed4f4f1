# SPDX-License-Identifier: Apache-2.0
"""The five fine-tuning methods: what each trains, keeps, gathers and computes."""
