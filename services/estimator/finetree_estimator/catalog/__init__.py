# SPDX-License-Identifier: Apache-2.0
"""What exists: models, accelerators, prices and the playbook's own figures, read from data files."""
