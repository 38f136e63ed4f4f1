# SPDX-License-Identifier: Apache-2.0
"""What trainings have made, as text: evaluations, exports and sweeps."""
