"""Leverages that public runs of other groups show, and how well each law says them beforehand."""
