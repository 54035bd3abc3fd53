"""Meta-learned initializations: the job that learns, compares and fine-tunes them, and its options."""
