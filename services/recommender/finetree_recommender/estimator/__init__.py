# SPDX-License-Identifier: Apache-2.0
"""What the estimator knows, asked over gRPC or as a subprocess."""
