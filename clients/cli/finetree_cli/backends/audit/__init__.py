# SPDX-License-Identifier: Apache-2.0
"""Audit logs of services, read and verified from their files alone: no service and none of its code is asked."""
