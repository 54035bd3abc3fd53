"""Meta-learned initializations: their files and the loops that learn and compare them."""
