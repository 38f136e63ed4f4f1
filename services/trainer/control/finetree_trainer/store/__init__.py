# SPDX-License-Identifier: Apache-2.0
"""What is durable: one SQL database behind one writer thread."""
