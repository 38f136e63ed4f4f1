# SPDX-License-Identifier: Apache-2.0
"""Ways out where nothing trains: what to ask the estimator of, and what its answers offer."""
