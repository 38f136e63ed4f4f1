# SPDX-License-Identifier: Apache-2.0
"""Workers on the nodes of a Ray cluster; `driver` alone imports ray, in a process of its own."""
