"""The frozen teacher of histogram relation learning: features, centroids, their cosine histogram
(paper section 3.3).
"""
