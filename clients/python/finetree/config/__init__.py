# SPDX-License-Identifier: Apache-2.0
"""What a client is set to, and where each setting comes from: arguments, environment, profile, defaults."""
