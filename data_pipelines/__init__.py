"""Images, captions and questions: read, validate, transform, batch. Knows no codes."""
