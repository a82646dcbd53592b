"""The measured side: the studies, what runs them, and the fits of the ledger."""
