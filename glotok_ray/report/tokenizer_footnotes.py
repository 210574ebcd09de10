"""Where the paper's Table 1 and the sources that it quotes differ, by system.

Read next: glotok_ray/report/published.csv
"""

FOOTNOTES = {
    "taming": "VQGAN (16,384 codes): the paper prints 5.96 / 23.3; taming's README has an rFID of 4.98 on the "
    "validation images and no PSNR. The paper's values look like VQGAN-LC's re-run (clean-fid, PSNR of luminance).",
    "rq_vae": "RQ-VAE: the paper prints 3.20, which the repository does not hold; presumably its 50-epoch model.",
    "vqgan_lc": "VQGAN-LC: 3.01 / 23.2 and 2.62 / 23.8 agree with the source, which compares with the raw, uncropped "
    "validation folder and takes PSNR of luminance, so that no other row is comparable; the released file of 100,000 "
    "codes was trained for 20 epochs and the paper's for 100.",
    "llamagen": "LlamaGen: 2.19 / 20.7 agrees with the source's 2.19 / 20.79, truncated.",
    "maskbit": "MaskBit: the rFID of 1.37 agrees; the source publishes no PSNR, and where 21.5 comes from is unknown.",
    "titok": "TiTok-S-128: the rFID of 1.71 agrees; the source publishes no PSNR. A user measured 3.91 with the "
    "released file (1d-tokenizer issue 105).",
    "open_magvit2": "Open-MAGVIT2: no file with 16,384 codes trained on ImageNet is released, so that 1.58 cannot be "
    "measured (the released pretrained one has 2.55 / 22.21); with 262,144 codes the source has 1.17 / 21.90, and the "
    "paper prints 22.6.",
    "ibq": "IBQ: the rFIDs of 1.37 and 1.00 agree; the source publishes no PSNR of these models, and where 21.0 comes "
    "from is unknown.",
    "tokenflow": 'TokenFlow: printed as "32,768 x 2", it has one shared index of 32,768 codes and 817 indices per '
    "image at 256 pixels, so that the row is of another rate; its repository holds neither rFID nor PSNR.",
    "fqgan": "FQGAN-Dual: 0.94 / 22.0 agrees with the source's 0.94 / 22.02.",
}
"""By the name of a system or of a layout of checkpoints; without a name nothing is to be said."""
