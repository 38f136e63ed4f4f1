# SPDX-License-Identifier: Apache-2.0
"""What must hold of a rule pack before it decides anything."""
