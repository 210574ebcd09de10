"""From class labels to images: the solvers of xAR, the decoding of FAR and GPT, the scale of latents.

May import pretrained, nn, data, config and all below them; no training and no Ray.
"""
