"""How results are measured: the plan of an evaluation, the features and scores of a block of images, and the metrics.

May import pretrained, metrics, data and all below them; no Ray.
"""
