"""MetaSDF: meta-learned signed distance functions."""
