"""Meta-training of initializations: MAML, Reptile, OML and GradNCP."""
