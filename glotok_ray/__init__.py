"""GloTok image tokenizers and the generators that are trained on them, distributed by Ray.

Each folder is a floor or a part of one, and a module imports only from floors below its own (pyproject.toml,
docs/architecture.md). The package never imports the commands in jobs/.
"""
