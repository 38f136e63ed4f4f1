# SPDX-License-Identifier: Apache-2.0
"""Base models that are served: what they need, how long they are kept, and what clients ask of them."""
