# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning part of OpenAI's HTTP interface: files, fine_tuning.jobs, events, checkpoints and models.

The unmodified `openai` clients speak to it. What a request says is mapped to datasets and jobs of the trainer; nothing
is stored here, so that any number of these programs may stand side by side.
"""
