# SPDX-License-Identifier: Apache-2.0
"""How every finetree service starts, authenticates, validates, logs, measures, fails and stops."""
