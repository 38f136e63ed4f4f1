# SPDX-License-Identifier: Apache-2.0
"""Answers of the services as text for people."""
