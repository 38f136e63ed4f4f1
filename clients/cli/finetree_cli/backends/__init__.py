# SPDX-License-Identifier: Apache-2.0
"""Who answers a command: a server at an address, or a service of this machine started as a child process."""
