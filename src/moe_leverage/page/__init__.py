"""What every page of the book needs: registry, chapter helpers, theme, links, notation."""
