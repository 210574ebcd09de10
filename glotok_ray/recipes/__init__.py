"""Named runs as functions that return configs; variants call `override` on another recipe.

May import config alone; one file per job, and its RECIPES are the names that the command line knows.
"""
