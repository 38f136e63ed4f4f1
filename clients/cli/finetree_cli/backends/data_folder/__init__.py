# SPDX-License-Identifier: Apache-2.0
"""The folders of services on this machine, without the services: programs of the installed packages work on them."""
