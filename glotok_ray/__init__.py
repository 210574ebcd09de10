"""GloTok image tokenizers and the generators that are trained on them, distributed by Ray."""
