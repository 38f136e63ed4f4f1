# SPDX-License-Identifier: Apache-2.0
"""The trainer, its control plane: jobs, queue, event log, datasets and artifacts."""
