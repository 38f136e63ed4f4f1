# SPDX-License-Identifier: Apache-2.0
"""Settings of a service from flags, environment variables and defaults."""
