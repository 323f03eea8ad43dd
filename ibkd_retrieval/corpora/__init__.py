"""Where text comes from: documents, queries and judgements."""
