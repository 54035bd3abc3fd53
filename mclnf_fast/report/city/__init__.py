"""Pictures and tables of city runs."""
