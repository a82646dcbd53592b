"""The measured side: the studies, what runs them, and the ledger that keeps every run."""
