"""What the results are judged by: pure functions and mergeable accumulators in numpy float64; no
torch, no Ray.
"""
