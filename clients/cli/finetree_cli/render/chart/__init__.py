# SPDX-License-Identifier: Apache-2.0
"""Charts of memory ranges as SVG and PNG."""
