"""What is told how a run goes on while it learns: callbacks of Python callers, and writers for other tools."""
