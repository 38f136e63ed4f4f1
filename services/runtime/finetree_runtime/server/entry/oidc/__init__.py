# SPDX-License-Identifier: Apache-2.0
"""Tokens of an OpenID Connect issuer: where its keys come from, and what of a token is checked."""
