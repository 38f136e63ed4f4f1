# SPDX-License-Identifier: Apache-2.0
"""Checks of an installation, a file a subject: what was found, and what to type where it should be otherwise."""
