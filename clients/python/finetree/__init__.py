# SPDX-License-Identifier: Apache-2.0
"""The finetree SDK: the one client of the recommender, the estimator and the trainer."""
