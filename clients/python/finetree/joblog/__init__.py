# SPDX-License-Identifier: Apache-2.0
"""A job's log without a service: in a file (`read_log`, `write_log`), and its metrics made fewer (`metrics`)."""

from finetree.joblog.record import FORMAT, JobLog, read_log, write_log

__all__ = ["FORMAT", "JobLog", "read_log", "write_log"]
