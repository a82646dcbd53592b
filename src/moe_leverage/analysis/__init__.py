"""From a table of runs to laws with intervals: reductions, fits, leverage, diagnosis."""
