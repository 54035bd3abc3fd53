"""A package outside of mclnf_fast that adds to it by entry points (see `toy_plugins-0.1.dist-info`)."""
