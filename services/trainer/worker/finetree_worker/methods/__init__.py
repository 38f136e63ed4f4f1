# SPDX-License-Identifier: Apache-2.0
"""One module per method; each has `apply`, which makes a model trainable, and `save`, which writes the result."""
