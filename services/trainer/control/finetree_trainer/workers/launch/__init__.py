# SPDX-License-Identifier: Apache-2.0
"""How workers are started, watched and ended: as processes of this machine, or on the nodes of a cluster."""
