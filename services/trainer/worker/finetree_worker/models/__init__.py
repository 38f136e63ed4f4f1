# SPDX-License-Identifier: Apache-2.0
"""Base models: conversion, download, verification and loading."""
