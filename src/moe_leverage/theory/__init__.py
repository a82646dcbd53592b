"""The paper's laws as formulas: what they share, their printed coefficients, and their rivals."""
