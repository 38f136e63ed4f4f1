# SPDX-License-Identifier: Apache-2.0
"""TLS of a client: credentials of files that change, and why a handshake fails."""
