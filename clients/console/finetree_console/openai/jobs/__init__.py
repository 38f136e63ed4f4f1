# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning jobs: from a request to a job of the trainer, and from that job to what the client reads."""
