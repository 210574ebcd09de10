"""The models, as pure PyTorch for one process and any device; no file is read here.

May import config and devices. Axes in every annotation: b batch, h w grid or image rows and
columns, c channels, t tokens in row-major order, n codes, d code width, k histogram bins.
Read next: glotok_ray/nn/tokenizer.py
"""
