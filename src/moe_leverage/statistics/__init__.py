"""From runs to laws with intervals: fits, bootstrap, diagnosis, leverage three ways."""
