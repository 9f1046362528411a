"""Systems' own ways to answer questions, where they are exact or better than the generic path."""
