# SPDX-License-Identifier: Apache-2.0
"""Traces: where a call comes from, spans of calls, spans made of records, and their export by OpenTelemetry."""
