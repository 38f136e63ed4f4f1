# SPDX-License-Identifier: Apache-2.0
"""The finetree contract as generated code, and its validation rules (rules.binpb, a FileDescriptorSet)."""
