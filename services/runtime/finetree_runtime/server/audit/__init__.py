# SPDX-License-Identifier: Apache-2.0
"""The audit log: who did what, when, from where and with which outcome, in files that are chained by SHA-256."""
