"""Fisher information: diagonal, K-FAC and rank-1 estimates, and scores per sample."""
