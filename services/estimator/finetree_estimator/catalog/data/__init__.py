# SPDX-License-Identifier: Apache-2.0
"""The catalog's data files: models, accelerators, prices and measured runs."""
