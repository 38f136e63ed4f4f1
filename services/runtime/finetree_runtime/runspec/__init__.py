# SPDX-License-Identifier: Apache-2.0
"""RunSpecs: defaults, settings that exclude each other, names and the plan digest."""
