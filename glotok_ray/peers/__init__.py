"""The tokenizers of other systems in the paper's Table 1, as pure PyTorch for inference in one process.

One file per system and one per shared trunk; `systems.py` lists them. May import nn, config and devices; reads no files
(`pretrained` brings weights) and imports no configs of jobs.
Read next: glotok_ray/peers/base.py
"""
