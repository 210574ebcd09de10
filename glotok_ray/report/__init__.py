"""What a person reads: grids, plots, tables of the paper with our numbers, and report.html.

May import training and all below it; no Ray.
"""
