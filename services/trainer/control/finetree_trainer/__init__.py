# SPDX-License-Identifier: Apache-2.0
"""The control plane of training: jobs, queue, event log, datasets and artifacts."""
