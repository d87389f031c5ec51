"""One file per scorer; the folder listing is the documentation."""
