"""Merging models that share a base: task vectors and how to combine them."""

from wspace.merge.ties import ties as ties
