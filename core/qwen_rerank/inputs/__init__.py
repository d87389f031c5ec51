"""What is scored: texts, images and videos, read from the fields of documents."""
