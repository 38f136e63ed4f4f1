# SPDX-License-Identifier: Apache-2.0
"""The estimator, over gRPC or as a subprocess."""
