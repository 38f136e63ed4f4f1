# SPDX-License-Identifier: Apache-2.0
"""One process per training task: the only importer of torch."""
