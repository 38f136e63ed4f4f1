# SPDX-License-Identifier: Apache-2.0
"""Metrics of a service, and the page that shows them."""
