"""What results are measured by: pure functions and accumulators that add up over parts, in numpy float64.

May import config and storage; no torch, no Ray.
"""
