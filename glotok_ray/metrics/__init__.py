"""What the results are measured by: pure functions and mergeable accumulators in numpy float64; no
torch, no Ray.
"""
