"""Images and the page that a person reads: grids, plots, report.html; no Ray, no training."""
