# SPDX-License-Identifier: Apache-2.0
"""Backups of the services' folders while they run, kept in one folder by content, and their way back."""
