# SPDX-License-Identifier: Apache-2.0
"""Replies of the services as text, tables and charts."""
