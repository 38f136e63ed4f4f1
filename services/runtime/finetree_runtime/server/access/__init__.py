# SPDX-License-Identifier: Apache-2.0
"""Who may do what: roles in projects, what each rpc needs, and the check of a call against both."""
