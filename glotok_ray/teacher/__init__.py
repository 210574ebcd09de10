"""The frozen teacher of histogram relation learning: features, their clusters, and the clusters' cosine histogram
(paper section 3.3).

May import pretrained, nn, data, losses, storage and config, but no job's config; no Ray.
"""
