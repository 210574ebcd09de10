"""Named runs as functions that return configs; variants call `override` on another recipe."""
