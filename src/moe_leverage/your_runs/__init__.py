"""A reader's own table of runs: read strictly, examined, fitted, reported."""
