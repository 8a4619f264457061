"""Measures what a saved model can do: reconstruction, visual questions, drawing, and the report."""
