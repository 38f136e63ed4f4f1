# SPDX-License-Identifier: Apache-2.0
"""A private certificate authority in a folder: its certificates for servers and clients, made, renewed and read."""
