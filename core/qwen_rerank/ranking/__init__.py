"""From documents and scores to an order of documents."""
