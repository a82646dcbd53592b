"""C++ of our own: `functions` are the operators, `door` says which of them run here, and why."""
