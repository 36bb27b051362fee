"""Calibration: which numbers may shrink to INT8, written into the graph and judged by the masks."""
