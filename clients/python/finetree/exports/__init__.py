# SPDX-License-Identifier: Apache-2.0
"""Files that other programs read, made from a job's log: a table of its metrics, and TensorBoard's event files."""
