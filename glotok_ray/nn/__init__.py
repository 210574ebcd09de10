"""The models, as pure PyTorch for one process and any device.

May import config and devices; reads no files (`pretrained` brings weights) and imports no configs of jobs.
Axes in every annotation: b batch, h w grid or image rows and columns, c channels, t tokens in row-major order, n codes,
d code width, k histogram bins.
Read next: glotok_ray/nn/tokenizer.py
"""
