"""The frozen teacher of histogram relation learning: features, centroids, their cosine histogram (paper section 3.3).

May import pretrained, nn, losses, data and all below them; no Ray, and no training.
"""
