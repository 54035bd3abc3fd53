"""Scans over the segments of a flat tensor: sums, products and linear recurrences along packed rays."""

from mclnf_fast.ops.segment_scan.api import segment_scan

__all__ = ["segment_scan"]
