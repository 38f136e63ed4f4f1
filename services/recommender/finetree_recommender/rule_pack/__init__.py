# SPDX-License-Identifier: Apache-2.0
"""Rule packs: loaded from YAML, inherited, checked, and kept up to date."""
