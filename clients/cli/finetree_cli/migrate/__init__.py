# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning jobs of another service turned into job files: the export, its rows, the base model, old answers."""
