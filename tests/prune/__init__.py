"""Tests."""

