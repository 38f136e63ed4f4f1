# SPDX-License-Identifier: Apache-2.0
"""Who may call an installation: its access file, by the runtime's program, and the token of its own services."""
